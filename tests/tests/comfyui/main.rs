//! The contract with ComfyUI: what the host promises about tasks that end there, whatever happens to the server.
//!
//! Every case runs against the stand-in. With `COMFYUI_ROOT` (and `COMFYUI_PYTHON`) the same cases run against a real
//! checkout: `make test-real`, which writes `tests/reports/comfyui.json`.
//!
//! - `cases.rs`: the promises.
//! - `faults.rs`: what may go wrong with a server; against the stand-in alone.
//! - `place.rs`: the server that they are held against.
//! - `report.rs`: the run against a real checkout, and its report.

mod cases;
mod faults;
mod place;
mod report;

use place::Place;

/// Each case, as a test against the stand-in and as an entry of the list for a real checkout.
macro_rules! contract {
    ($($case:ident),+ $(,)?) => {
        $(
            #[test]
            fn $case() {
                cases::$case(&Place::standin());
            }
        )+

        /// All of them, by name.
        const CASES: &[report::Case] = &[$((stringify!($case), cases::$case as fn(&Place))),+];
    };
}

contract!(
    a_workflow_gives_its_pictures_its_video_and_its_audio,
    a_failing_node_is_named_with_what_it_said,
    a_cancelled_task_stops_its_own_prompt_and_no_other,
    an_invalid_workflow_is_refused_with_the_place_of_the_error,
    a_server_killed_in_mid_run_gets_the_job_again,
    a_slow_start_is_waited_for_and_told,
    two_template_types_take_turns,
    a_prompt_of_an_operators_server_is_found_again_after_a_restart_of_the_host,
    a_running_job_of_an_owned_server_is_submitted_again_once_after_a_restart_of_the_host,
    a_deaf_node_costs_the_server_its_life_and_nobody_else_anything,
    files_of_a_task_reach_the_nodes_that_load_them,
);

#[test]
#[ignore = "needs a real checkout: set COMFYUI_ROOT and COMFYUI_PYTHON and run `make test-real`"]
fn a_real_server_keeps_the_contract() {
    report::run(CASES);
}
