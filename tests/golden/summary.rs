//! How the cases came out, counted and told.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;

use crate::altered;
use crate::case::Case;
use crate::compare::compare;

/// Counts of cases and members.
#[derive(Debug, Default)]
pub struct Summary {
    passed: usize,
    /// Names and what differs.
    failed: Vec<(String, Vec<String>)>,
    /// Cases of which nothing could be compared.
    not_compared: Vec<String>,
    /// How often each member was compared, and not.
    members: BTreeMap<String, (usize, usize)>,
    /// Key, reason, how often.
    left_out: BTreeMap<(String, String), usize>,
}

impl Summary {
    pub fn add(&mut self, case: &Case, observed: Result<Value>) {
        let observed = match observed {
            Ok(observed) => observed,
            Err(e) => {
                self.failed.push((case.name.clone(), vec![format!("the case could not be run: {e:#}")]));
                return;
            }
        };
        let verdict = compare(case, &observed);
        for member in &verdict.compared {
            self.members.entry(member.clone()).or_default().0 += 1;
        }
        for (key, reason) in &verdict.not_compared {
            if case.expected.get(key).is_some() {
                self.members.entry(key.clone()).or_default().1 += 1;
            }
            *self.left_out.entry((key.clone(), reason.clone())).or_default() += 1;
        }
        let mut differences = verdict.differences.clone();
        if differences.is_empty() {
            differences = altered::unnoticed(case, &observed, &verdict);
        }
        if !differences.is_empty() {
            self.failed.push((case.name.clone(), differences));
        } else if verdict.compared.is_empty() {
            self.not_compared.push(case.name.clone());
        } else {
            self.passed += 1;
        }
    }

    pub fn print(&self, name: &str) {
        for (case, differences) in &self.failed {
            println!("FAILED {case}");
            differences.iter().for_each(|difference| println!("    {difference}"));
        }
        println!(
            "golden {name}: {} passed, {} failed, {} not compared",
            self.passed,
            self.failed.len(),
            self.not_compared.len()
        );
        let (compared, left) = self.counts();
        println!("  members: {compared} compared, {left} not compared");
        for (member, (compared, left)) in &self.members {
            println!("  {member}: {compared} compared, {left} not compared");
        }
        for ((key, reason), times) in &self.left_out {
            println!("  not compared: {key} ({reason}) x{times}");
        }
        self.not_compared
            .iter()
            .for_each(|case| println!("  not compared: case {case} (the record leaves all of it open)"));
    }

    /// # Panics
    /// When a case failed, none ran, or more than this share of the cases or members was not compared.
    pub fn check(&self, left_out: f64) {
        assert!(self.passed > 0, "no case passed");
        assert!(self.failed.is_empty(), "{} cases failed", self.failed.len());
        let cases = (self.passed + self.not_compared.len()) as f64;
        assert!(self.not_compared.len() as f64 <= cases * left_out, "too many cases are not compared");
        let (compared, left) = self.counts();
        let members = (compared + left) as f64;
        assert!(left as f64 <= members * left_out, "{left} of {members} members are not compared");
    }

    fn counts(&self) -> (usize, usize) {
        self.members.values().fold((0, 0), |(compared, left), (c, l)| (compared + c, left + l))
    }
}
