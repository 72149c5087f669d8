//! Seeded bugs: each marked rule of the consensus core, of the transfer and of the level is left
//! out in turn, and must be missed: by the trace that was made for it, by a random walk, and by the
//! simulator. They examine the tests, not the code.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use super::lane::root;

/// Minutes that the simulator has to miss a rule.
const SIM_MINUTES: &str = "3";
/// The seeds that it tries: the same ones every time, so that what it finds today it finds again.
const SIM_SEEDS: [&str; 4] = ["--from", "1", "--contests", "--minutes"];

/// A rule that can be left out.
struct Bug {
    name: &'static str,
    /// The trace that must fail without it: a unit test of the engine, or one of [`WAL`].
    trace: &'static str,
    /// Random tests, of which one must fail; none where the rule has no part in them.
    walks: &'static str,
    /// Whether a world of the simulator must fail too.
    is_found_in_worlds: bool,
}

const WALK: &str = "paxos::tests::walk::";
/// Walks for a rule that is rarely needed: the ones before are the first of these.
const MORE_WALKS: &str = "paxos::tests::walk::three_nodes_keep_what_is_committed";
const MORE_SEEDS: &str = "40000";
const LEVEL: &str = "control::tests::walk::";
const SITES: &str = "control::tests::handover::";
/// What the names of the log's own tests begin with here (`wal/tests/log`).
const WAL: &str = "wal::";

const BUGS: &[Bug] = &[
    Bug {
        name: "candidate_promise_not_durable",
        trace: "paxos::tests::cases::a_candidate_that_forgets_its_promise_has_asked_for_none",
        walks: WALK,
        is_found_in_worlds: true,
    },
    Bug {
        name: "promise_before_prefix_durable",
        trace: "paxos::tests::cases::a_promise_that_is_forgotten_was_never_heard",
        walks: WALK,
        is_found_in_worlds: true,
    },
    Bug {
        name: "accepting_raised_by_fetch",
        trace: "paxos::tests::cases::a_candidate_without_the_bytes_of_its_tail_outranks_nobody",
        walks: WALK,
        is_found_in_worlds: true,
    },
    Bug {
        name: "takeover_below_committed",
        trace: "paxos::tests::cases::a_takeover_that_comes_twice_acts_once",
        walks: WALK,
        is_found_in_worlds: true,
    },
    Bug {
        name: "commit_of_other_ballot",
        trace: "paxos::tests::cases::a_commit_of_another_ballot_is_ignored",
        walks: WALK,
        is_found_in_worlds: true,
    },
    Bug {
        name: "floor_of_another_promise",
        trace: "paxos::tests::floors::a_floor_that_came_after_a_promise_to_another_closes_nothing",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "chunk_chain_unchecked",
        trace: "transfer::receiver_tests::a_chunk_is_checked_whole",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "closed_ahead_of_log",
        trace: "paxos::replayable::tests::a_closed_scn_counts_when_the_log_has_the_position",
        walks: "",
        is_found_in_worlds: true,
    },
    Bug {
        name: "standby_log_unproven",
        trace: "transfer::ship::tests::another_log_is_never_counted",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "fall_waits_for_nobody",
        trace: "control::tests::model::a_level_falls_whenever_the_standby_is_failed_over",
        walks: LEVEL,
        is_found_in_worlds: false,
    },
    Bug {
        name: "silent_shards_count_as_fallen",
        trace: "control::tests::model::a_leader_of_the_catalogue_goes_on_from_its_entries",
        walks: LEVEL,
        is_found_in_worlds: false,
    },
    Bug {
        name: "leader_waits_for_no_lease",
        trace: "control::tests::model::a_leader_of_the_catalogue_goes_on_from_its_entries",
        walks: LEVEL,
        is_found_in_worlds: false,
    },
    Bug {
        name: "level_rises_before_marks",
        trace: "control::tests::model::a_rise_is_done_or_given_up",
        walks: LEVEL,
        is_found_in_worlds: false,
    },
    Bug {
        name: "left_without_proof",
        trace: "control::tests::model::protection_is_left_when_the_standby_knows_or_by_force",
        walks: LEVEL,
        is_found_in_worlds: false,
    },
    Bug {
        name: "marks_of_two_rises",
        trace: "control::role::tests::a_fence_says_whether_all_that_was_acked_stands_before_it",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "writes_without_lease",
        trace: "control::tests::model::a_level_falls_whenever_the_standby_is_failed_over",
        walks: LEVEL,
        is_found_in_worlds: false,
    },
    Bug {
        name: "confirmed_and_goes_on",
        trace: "control::tests::model::a_leader_of_the_catalogue_goes_on_from_its_entries",
        walks: LEVEL,
        is_found_in_worlds: false,
    },
    Bug {
        name: "marked_async_before_the_fall_ended",
        trace: "control::tests::model::a_level_falls_whenever_the_standby_is_failed_over",
        walks: LEVEL,
        is_found_in_worlds: false,
    },
    Bug {
        name: "lease_without_majority",
        trace: "control::tests::model::a_leader_that_is_one_no_more_gives_no_leases",
        walks: LEVEL,
        is_found_in_worlds: false,
    },
    Bug {
        name: "handed_over_without_ends",
        trace: "control::tests::switchover::the_role_goes_with_the_last_end",
        walks: SITES,
        is_found_in_worlds: false,
    },
    Bug {
        name: "written_after_the_end",
        trace: "control::role::tests::a_stream_serves_between_its_start_and_its_end",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "serves_before_every_start",
        trace: "control::role::tests::a_stream_serves_between_its_start_and_its_end",
        walks: SITES,
        is_found_in_worlds: false,
    },
    Bug {
        name: "lease_from_its_receipt",
        trace: "control::tests::model::a_leader_of_a_stream_learns_the_level",
        walks: LEVEL,
        is_found_in_worlds: false,
    },
    Bug {
        name: "standby_kept_for_nothing",
        trace: "stream::mark::tests::nothing_is_let_go_that_a_sync_standby_lacks",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "cascade_loop",
        trace: "transfer::upstream_tests::every_kind_of_candidate_has_its_place_in_the_order",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "producers_not_restored",
        trace: "stream::image::tests::an_image_reads_back_and_a_shorter_one_does_not",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "producers_not_voided",
        trace: "stream::derived::tests::a_table_is_a_function_of_the_committed_log",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "length_trusted",
        trace: "forward::wire::tests::numbers_out_of_range_are_refused",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "queue_unbounded",
        trace: "forward::sender_tests::a_reader_that_takes_nothing_is_given_up_and_holds_no_memory",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "shown_before_held",
        trace: "shard::tests::reads::nobody_is_shown_what_the_sync_standby_lacks",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "acked_before_async_mark",
        trace: "stream::mark::tests::acks_wait_from_a_sync_mark_until_an_async_mark_is_committed",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "created_without_its_mark",
        trace: "stream::mark::tests::a_stream_that_is_born_with_a_mark_is_gated_from_its_first",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "step_of_another_version",
        trace: "control::rules_tests::of_two_that_were_decided_on_one_version_the_first_acts",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "gap_is_another_log",
        trace: "transfer::receiver_tests::what_passes_is_not_told_as_what_lasts",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "behind_told_at_once",
        trace: "transfer::receiver_tests::what_passes_is_not_told_as_what_lasts",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "identity_in_one_copy",
        trace: "wal::identity::a_change_counts_when_both_copies_are_written",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "directory_not_synced",
        trace: "wal::writing::what_is_durable_in_a_new_segment_outlives_a_power_cut",
        walks: "wal::random::everything_durable",
        is_found_in_worlds: true,
    },
    Bug {
        name: "pins_ignored",
        trace: "shard::tests::pins::what_a_registered_standby_lacks_is_kept_up_to_the_cap",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "old_primary_not_fenced",
        trace: "control::term::tests::a_primary_that_is_outranked_is_fenced",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "lossless_after_resync",
        trace: "control::role::tests::a_fence_says_whether_all_that_was_acked_stands_before_it",
        walks: "",
        is_found_in_worlds: false,
    },
    Bug {
        name: "begins_before_every_fence",
        trace: "control::tests::failover::the_role_is_taken_when_every_stream_is_fenced",
        walks: "",
        is_found_in_worlds: false,
    },
];

/// Builds the tests of the engine and of the log, and the simulator, once; each bug must be found
/// by all that are named for it.
pub(crate) fn run(only: &[String]) -> ExitCode {
    let unknown = only.iter().find(|name| BUGS.iter().all(|bug| bug.name != **name));
    if let Some(name) = unknown {
        let names: Vec<&str> = BUGS.iter().map(|bug| bug.name).collect();
        eprintln!("{name}: no such bug; they are {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    let started = Instant::now();
    let programs = match Programs::build() {
        Ok(programs) => programs,
        Err(error) => {
            println!("FAILED to build with --cfg seeded_bugs: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("built the tests and the simulator ({:.1} s)", started.elapsed().as_secs_f64());
    let mut missed = 0;
    let wanted = |bug: &&Bug| only.is_empty() || only.iter().any(|name| name == bug.name);
    for bug in BUGS.iter().filter(wanted) {
        let started = Instant::now();
        let found = programs.find(bug);
        let took = started.elapsed().as_secs_f64();
        match found {
            Ok(by) => println!("FOUND {} by {} ({took:.1} s)", bug.name, by.join(", ")),
            Err(error) => {
                println!("MISSED {}: {error} ({took:.1} s)", bug.name);
                missed += 1;
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What was built with `--cfg seeded_bugs`.
struct Programs {
    tests: PathBuf,
    wal: PathBuf,
    sim: PathBuf,
}

impl Programs {
    fn build() -> Result<Programs, String> {
        let wrapper = root().join("target").join("seeded-rustc");
        write_wrapper(&wrapper).map_err(|error| format!("{}: {error}", wrapper.display()))?;
        Ok(Programs {
            tests: build(
                Some(&wrapper),
                "palisade",
                &["test", "--no-run", "--package", "palisade", "--lib"],
            )?,
            wal: build(
                Some(&wrapper),
                "log",
                &["test", "--no-run", "--package", "palisade-wal", "--test", "log"],
            )?,
            sim: build(
                Some(&wrapper),
                "sim",
                &["build", "--release", "-p", "palisade-tests", "--bin", "sim"],
            )?,
        })
    }

    /// What found the bug, or what did not.
    fn find(&self, bug: &Bug) -> Result<Vec<String>, String> {
        let mut by = self.failing(bug.name, bug.trace, None)?;
        if by.is_empty() {
            return Err(format!("{} passes without the rule", bug.trace));
        }
        if !bug.walks.is_empty() {
            let mut walks = self.failing(bug.name, bug.walks, None)?;
            if walks.is_empty() && bug.walks == WALK {
                walks = self.failing(bug.name, MORE_WALKS, Some(MORE_SEEDS))?;
            }
            if walks.is_empty() {
                return Err(format!("every test of {} passes without the rule", bug.walks));
            }
            by.push(format!("{} walks", walks.len()));
        }
        if bug.is_found_in_worlds {
            by.push(self.failing_seed(bug.name)?);
        }
        Ok(by)
    }

    /// The tests of this name, or in this module, that fail without the rule; walks with so many
    /// seeds instead of their own number.
    fn failing(&self, bug: &str, tests: &str, seeds: Option<&str>) -> Result<Vec<String>, String> {
        let (program, tests) = match tests.strip_prefix(WAL) {
            Some(tests) => (&self.wal, tests),
            None => (&self.tests, tests),
        };
        let mut command = Command::new(program);
        command.arg(tests).envs(seeds.map(|seeds| ("PAXOS_SEEDS", seeds)));
        let text = output(&mut command, bug)?;
        let failed =
            |line: &str| line.strip_prefix("test ")?.strip_suffix(" ... FAILED").map(str::to_owned);
        let is_some = |line: &str| line.starts_with("running ") && line != "running 0 tests";
        if !text.lines().any(is_some) {
            return Err(format!("{tests} did not run"));
        }
        Ok(text.lines().filter_map(failed).collect())
    }

    /// The seed of a world that fails without the rule, and how.
    fn failing_seed(&self, bug: &str) -> Result<String, String> {
        let text = output(Command::new(&self.sim).args(SIM_SEEDS).arg(SIM_MINUTES), bug)?;
        let failed = |line: &str| {
            let (seed, how) = line.strip_prefix("seed ")?.split_once(" FAILED: ")?;
            let end = how.find(':').unwrap_or(how.len());
            Some(format!("seed {seed} ({})", &how[..end]))
        };
        let seed = text.lines().find_map(failed);
        seed.ok_or_else(|| format!("the simulator misses nothing in {SIM_MINUTES} minutes"))
    }
}

/// What a program says when the rule is left out; it may fail, that is what it is run for.
fn output(command: &mut Command, bug: &str) -> Result<String, String> {
    let output = command
        .env("PALISADE_SEEDED_BUG", bug)
        .stderr(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A compiler that adds the cfg: to the packages of this workspace alone, so that what they lean
/// on is not built again.
fn write_wrapper(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    std::fs::create_dir_all(path.parent().expect("a file in the target folder"))?;
    std::fs::write(path, "#!/bin/sh\nexec \"$@\" --cfg seeded_bugs\n")?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

/// Builds one program, by way of a compiler that adds something; gives where it is.
pub(super) fn build(
    wrapper: Option<&Path>,
    target: &str,
    arguments: &[&str],
) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(arguments)
        .args(["--quiet", "--message-format", "json"])
        .envs(wrapper.map(|wrapper| ("RUSTC_WORKSPACE_WRAPPER", wrapper)))
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if !built.status.success() {
        return Err(format!("cargo {}: {}", arguments.join(" "), built.status));
    }
    let messages = String::from_utf8_lossy(&built.stdout);
    let program = messages.lines().rev().find_map(|message| executable(message, target));
    program.map(PathBuf::from).ok_or_else(|| "cargo named no program".to_string())
}

fn executable(message: &str, target: &str) -> Option<String> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    if message.get("target")?.get("name")? != target {
        return None;
    }
    message.get("executable")?.as_str().map(str::to_owned)
}
