//! Which job next. A pure function of the lane's state, the candidates and the time; the reason for the choice is data.

use crate::clock::Timestamp;

/// What the policy looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub priority: i64,
    pub created_at: Timestamp,
}

/// A choice and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Position among the candidates.
    pub index: usize,
    pub reason: String,
}

/// Highest priority, then oldest, then the order given. None: nothing to choose from.
pub fn next(candidates: &[Candidate]) -> Option<Choice> {
    let (index, best) =
        candidates.iter().enumerate().min_by_key(|(i, c)| (std::cmp::Reverse(c.priority), c.created_at, *i))?;
    let reason = if candidates.len() == 1 {
        "the only job that waits".to_string()
    } else {
        format!("oldest of the {} jobs that wait with priority {}", candidates.len(), best.priority)
    };
    Some(Choice { index, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(priority: i64, created_at: i64) -> Candidate {
        Candidate { priority, created_at: Timestamp(created_at) }
    }

    #[test]
    fn priority_goes_before_age_and_age_before_order() {
        let choose = |list: &[Candidate]| next(list).map(|c| c.index);
        assert_eq!(choose(&[]), None);
        assert_eq!(choose(&[candidate(0, 5), candidate(0, 3), candidate(0, 3)]), Some(1));
        assert_eq!(choose(&[candidate(0, 1), candidate(2, 9)]), Some(1));
    }
}
