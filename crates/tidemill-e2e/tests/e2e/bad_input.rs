//! Bad input, as a person meets it: one clear error, exit code 1, nothing half committed; records go to dead letters.
//!
//! **Invariant:** every error is checked by its code, its place and its essential words, not by its whole text.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tidemill_testkit::ProjectFolder;

use crate::binary::{self, Ran};

const PIPELINE: &str = "CREATE PIPELINE p WITH (trigger = 'once');
CREATE TABLE orders (id BIGINT NOT NULL, amount DECIMAL(12, 2), region VARCHAR)
  WITH (connector = 'files', path = 'in/', format = 'json');
CREATE TABLE kept (id BIGINT, amount DECIMAL(12, 2))
  WITH (connector = 'files', path = 'out', format = 'json');
INSERT INTO kept SELECT id, amount FROM orders;
";

const ROWS: &str =
    "{\"id\": 1, \"amount\": 1.5, \"region\": \"eu\"}\n{\"id\": 2, \"amount\": 2.5, \"region\": \"us\"}\n";

/// The project above with this pipeline and two orders.
fn project(pipeline: &str) -> ProjectFolder {
    let project = ProjectFolder::new("[engine]\nlanes = 1\n").expect("a folder");
    project.write("pipelines/p.sql", pipeline).expect("a pipeline");
    project.write("in/first.jsonl", ROWS).expect("rows");
    project
}

fn run(project: &ProjectFolder) -> Ran {
    binary::run(project.path(), &["--short", "run", "p"])
}

/// That the run failed with this code at this place, saying these words, and wrote nothing where readers look.
fn fails(pipeline: &str, place: &str, code: &str, words: &[&str]) {
    let project = project(pipeline);
    let ran = run(&project);
    told(&ran, place, code, words);
    assert_eq!(published(&project), Vec::<String>::new(), "nothing is published");
}

fn told(ran: &Ran, place: &str, code: &str, words: &[&str]) {
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(ran.out, "", "an error is no result");
    let start = if place.is_empty() { format!("{code}: ") } else { format!("{place}: {code}: ") };
    let errors: Vec<&str> = ran.err.lines().filter(|line| line.contains(": ") && !line.contains("Ctrl-C")).collect();
    assert!(errors.len() == 1 && errors[0].starts_with(&start), "one error that starts `{start}`: {}", ran.err);
    for word in words {
        assert!(errors[0].contains(word), "`{word}` is not in: {}", ran.err);
    }
}

/// The lines in the target, as its readers see them.
fn published(project: &ProjectFolder) -> Vec<String> {
    let files = project.contents("out").expect("the target");
    let visible = files.iter().filter(|(path, _)| !path.to_string_lossy().contains("/_"));
    let mut lines: Vec<String> = visible
        .flat_map(|(_, bytes)| String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    lines.sort();
    lines
}

const BOTH: [&str; 2] = ["{\"id\":1,\"amount\":1.50}", "{\"id\":2,\"amount\":2.50}"];

#[test]
fn a_missing_file() {
    let pipeline = PIPELINE.replace("'in/'", "'in/nothing.jsonl'");
    fails(&pipeline, "", "C315", &["reading orders", "nothing at `in/nothing.jsonl`"]);
}

#[test]
fn an_unknown_column() {
    let pipeline = PIPELINE.replace("SELECT id, amount", "SELECT id, amont");
    fails(&pipeline, "pipelines/p.sql:6:29", "P104", &["no column `amont` in `orders`"]);
    let ran = binary::run(project(&pipeline).path(), &["run", "p"]);
    assert!(ran.err.contains("^^^^^ did you mean `amount`?"), "{}", ran.err);
}

#[test]
fn an_unknown_table_and_an_unknown_pipeline() {
    let pipeline = PIPELINE.replace("FROM orders", "FROM order");
    let ran = run(&project(&pipeline));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let pipeline = PIPELINE.replace("FROM orders", "FROM ordres");
    fails(&pipeline, "pipelines/p.sql:6:41", "P105", &["`ordres`"]);
    let ran = binary::run(project(PIPELINE).path(), &["--short", "run", "q"]);
    assert_eq!(ran.code, Some(2), "what was typed is wrong: {ran:?}");
    assert!(ran.err.starts_with("C022: no pipeline `q`"), "{}", ran.err);
}

#[test]
fn a_clash_of_types() {
    let pipeline = PIPELINE.replace("SELECT id, amount", "SELECT id, region");
    fails(&pipeline, "pipelines/p.sql:6:13", "P140", &["`amount` is DECIMAL(12, 2) and the query gives VARCHAR"]);
    let pipeline = PIPELINE.replace("SELECT id, amount", "SELECT id, sum(region) OVER ()");
    let ran = run(&project(&pipeline));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.starts_with("pipelines/p.sql:6:"), "{ran:?}");
}

#[test]
fn an_unknown_option() {
    let pipeline = PIPELINE.replace("'out', format", "'out', formt");
    let project = project(&pipeline);
    let ran = run(&project);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("pipelines/p.sql:5:44: C011: unknown `files` option `formt`"), "{}", ran.err);
    let ran = binary::run(project.path(), &["run", "p"]);
    assert!(ran.err.contains("did you mean `format`?"), "{}", ran.err);
}

#[test]
fn a_word_that_the_command_line_does_not_know() {
    let project = project(PIPELINE);
    for words in [&["frobnicate"][..], &["run"], &["run", "p", "--lanes", "many"], &["run", "p", "--sideways"]] {
        let ran = binary::run(project.path(), words);
        assert_eq!(ran.code, Some(2), "{words:?}: {ran:?}");
        assert!(ran.err.contains("error:") && ran.out.is_empty(), "{words:?}: {ran:?}");
    }
    assert_eq!(published(&project), Vec::<String>::new());
}

#[test]
fn an_unreadable_delta_table() {
    let pipeline = PIPELINE.replace("'files', path = 'out', format = 'json'", "'delta', path = 'out'");
    let project = project(&pipeline);
    assert_eq!(run(&project).code, Some(0), "the table is made");
    project.write("out/_delta_log/00000000000000000000.json", "no log").expect("damage");
    project.write("in/second.jsonl", "{\"id\": 3, \"amount\": 3}\n").expect("rows");
    let before = project.contents("out").expect("the table");
    let ran = run(&project);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains(": X210: ") && ran.err.contains("out"), "{}", ran.err);
    assert_eq!(project.contents("out").expect("the table"), before, "the table is as it was");
}

#[test]
fn a_second_process() {
    let project = project(&PIPELINE.replace("'once'", "'continuous', checkpoint = '20 ms'"));
    let mut first = binary::start(project.path(), &["-q", "run", "p"], &project.join("said"));
    wait_for("the first process to publish", || published(&project) == BOTH);
    let ran = run(&project);
    told(&ran, "", "F001", &["pipeline `p` is already being run by process", &first.id().to_string()]);
    project.write("in/second.jsonl", "{\"id\": 3, \"amount\": 3}\n").expect("rows");
    wait_for("the first process to go on", || published(&project).len() == 3);
    assert_eq!(binary::terminate(&mut first), Some(0), "{:?}", std::fs::read_to_string(project.join("said")));
}

#[test]
fn a_corrupt_manifest() {
    let project = project(PIPELINE);
    assert_eq!(run(&project).code, Some(0));
    let epochs = project.contents(".tidemill/pipelines/p/epochs").expect("manifests");
    let (path, mut bytes) = epochs.into_iter().next_back().expect("one manifest");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x20;
    std::fs::write(&path, &bytes).expect("damage");
    project.write("in/second.jsonl", "{\"id\": 3, \"amount\": 3}\n").expect("rows");
    let ran = run(&project);
    told(&ran, "", "X001", &["the manifest pipelines/p/epochs/00000000000000000001.json is damaged"]);
    assert_eq!(published(&project), BOTH, "the target is as it was");
    bytes[middle] ^= 0x20;
    std::fs::write(&path, &bytes).expect("the backup");
    assert_eq!(run(&project).code, Some(0), "with the file back, the pipeline goes on");
    assert_eq!(published(&project).len(), 3);
}

/// As after a death between the manifest and the commit: the run has not noted that its epoch reached every table.
#[test]
fn a_table_that_leaves_before_its_rows_are_published() {
    let project = project(PIPELINE);
    assert_eq!(run(&project).code, Some(0));
    std::fs::remove_file(project.join(".tidemill/pipelines/p/published")).expect("the note");
    let other = PIPELINE.replace("kept", "other").replace("'out'", "'elsewhere'");
    project.write("pipelines/p.sql", &other).expect("another table");
    told(&run(&project), "", "P153", &["`p` no longer writes `kept`"]);
    project.write("pipelines/p.sql", PIPELINE).expect("the table is back");
    assert_eq!(run(&project).code, Some(0));
    assert_eq!(published(&project), BOTH, "committed again, to no effect");
    project.write("pipelines/p.sql", &other).expect("another table");
    assert_eq!(run(&project).code, Some(0), "all rows are known to be published, so it may leave");
}

#[test]
fn a_broken_rule_that_fails() {
    let rule = "region VARCHAR, CONSTRAINT small CHECK (amount < 2) ON VIOLATION FAIL)";
    let pipeline = PIPELINE.replace("region VARCHAR)", rule);
    fails(&pipeline, "", "D120", &["`orders`: small"]);
}

#[test]
fn malformed_records() {
    let project = project(PIPELINE);
    let bad = "{\"id\": 3, \"amo\n{\"id\": \"x\", \"amount\": 1}\n{\"amount\": 3}\n{\"id\": 4, \"amount\": 4}\n";
    project.write("in/second.jsonl", bad).expect("rows");
    let ran = run(&project);
    assert_eq!(ran.code, Some(0), "the run goes on: {ran:?}");
    let mut expected: Vec<&str> = BOTH.to_vec();
    expected.push("{\"id\":4,\"amount\":4.00}");
    assert_eq!(published(&project), expected);
    let letters = binary::run(project.path(), &["dead-letters", "p", "--show", "9", "--format", "json"]).json();
    let mut found: Vec<(u64, String, String, String)> = letters["datasets"][0]["newest"]
        .as_array()
        .expect("letters")
        .iter()
        .map(|letter| {
            let text = |name: &str| letter[name].as_str().unwrap_or_default().to_owned();
            (letter["position"].as_u64().expect("an offset"), text("split"), text("reason"), text("raw"))
        })
        .collect();
    found.sort();
    let letter =
        |position, reason: &str, raw: &str| (position, "second.jsonl".to_owned(), reason.to_owned(), raw.to_owned());
    let expected = [
        letter(0, "unreadable JSON", "{\"id\": 3, \"amo"),
        letter(15, "id is not a BIGINT", "{\"id\": \"x\", \"amount\": 1}"),
        letter(40, "id null", "{\"amount\": 3}"),
    ];
    assert_eq!(found, expected);
    let asked =
        binary::run(project.path(), &["query", "SELECT count(*) AS n FROM orders.dead_letters", "--format", "json"]);
    assert!(asked.out.contains('3'), "{asked:?}");
}

/// The project above whose query fails on two of three rows, with these options of the pipeline.
fn failing(options: &str) -> ProjectFolder {
    let pipeline = PIPELINE.replace("trigger = 'once'", &format!("trigger = 'once'{options}"));
    let pipeline = pipeline.replace("SELECT id, amount", "SELECT id, CAST(region AS DECIMAL(12, 2)) AS amount");
    let project = project(&pipeline);
    project.write("in/second.jsonl", "{\"id\": 3, \"region\": \"7\"}\n").expect("rows");
    project
}

#[test]
fn an_expression_that_fails_on_rows() {
    let third = "{\"id\":3,\"amount\":7.00}".to_owned();
    let project = failing("");
    assert_eq!(run(&project).code, Some(0), "the others go on");
    assert_eq!(published(&project), std::slice::from_ref(&third));
    let letters = binary::run(project.path(), &["dead-letters", "p", "--show", "1", "--format", "json"]).json();
    let of_kept = &letters["datasets"][0];
    assert_eq!((of_kept["dataset"].as_str(), of_kept["rows"].as_u64()), (Some("kept"), Some(2)), "{letters}");
    let reason = "bad value in CAST(region AS DECIMAL(12, 2))";
    assert_eq!(of_kept["reasons"][0]["reason"].as_str(), Some(reason), "{letters}");
    let newest = &of_kept["newest"][0];
    assert_eq!(newest["split"].as_str(), Some("statement in pipelines/p.sql"), "{letters}");
    assert_eq!(newest["position"].as_u64(), Some(6), "{letters}");
    assert!(newest["detail"].as_str().is_some_and(|detail| detail.starts_with("cannot cast '")), "{letters}");
    let sql = "SELECT count(*) AS n FROM kept.dead_letters";
    assert!(binary::run(project.path(), &["query", sql, "--format", "json"]).out.contains('2'));

    let project = failing(", on_error = 'null'");
    assert_eq!(run(&project).code, Some(0));
    let nulls = ["{\"id\":1,\"amount\":null}", "{\"id\":2,\"amount\":null}", &third];
    assert_eq!(published(&project), nulls);

    let project = failing(", on_error = 'fail'");
    told(&run(&project), "pipelines/p.sql:6:13", "D101", &["'eu' is no DECIMAL"]);
    assert_eq!(published(&project), Vec::<String>::new(), "nothing is published");

    let project = failing(", max_errors = '1'");
    told(&run(&project), "", "D130", &["2 of 3 rows of epoch 1 failed in expressions, and 1 may"]);
    assert_eq!(published(&project), Vec::<String>::new(), "nothing is published");
    let project = failing(", max_errors = 'many'");
    told(&run(&project), "pipelines/p.sql:1:56", "C069", &["`many` is no limit of errors"]);
}

/// The target is on a disk of 300 KiB, which is full long before the rows are written, and then has room.
#[test]
fn a_full_disk() {
    let project = project(PIPELINE);
    let many: String = (10..40_000).map(|id| format!("{{\"id\": {id}, \"amount\": {id}.25}}\n")).collect();
    project.write("in/many.jsonl", many).expect("rows");
    project.write("out/.keep", "").expect("the target's folder");
    let run = format!("'{}' --short run p; echo \"exit $?\" >&2", binary::path().display());
    let seen = "ls out | grep -v '^_' | sed 's/^/published /' >&2";
    let small = "mount -t tmpfs -o size=300k none out";
    // The rows must outlive the mount.
    let large = "mount -o remount,size=64m out";
    let after = "mkdir copy && cp out/*.jsonl copy/";
    let script = format!("{small} && cd . && {run}; {seen}; {large}; {run}; {after}");
    let namespace = [&["unshare", "-m"][..], &["unshare", "-rm"]]
        .into_iter()
        .find(|words| shell(project.path(), words, &format!("{small} && umount out")).code == Some(0));
    let (ran, whole) = match namespace {
        Some(words) => (shell(project.path(), words, &script), project.contents("copy")),
        None => {
            // Without the right to mount, the limit of a file's size stands for the disk.
            let script = format!("(ulimit -f 200; trap '' XFSZ; {run}); {seen}; {run}");
            let ran = shell(project.path(), &[], &script);
            (ran, project.contents("out"))
        }
    };
    let (first, second) = ran.err.split_once("exit 1\n").unwrap_or_else(|| panic!("the first run fails: {ran:?}"));
    let code = if namespace.is_some() { "U010: " } else { "U011: " };
    assert!(first.lines().any(|line| line.starts_with(code) && line.contains("writing to kept")), "{}", ran.err);
    assert!(
        !second.contains("published") && second.ends_with("exit 0\n"),
        "then nothing is there, then all: {}",
        ran.err
    );
    let lines: usize = whole
        .expect("the rows")
        .iter()
        .filter(|(path, _)| !path.to_string_lossy().contains("/_"))
        .map(|(_, bytes)| bytes.iter().filter(|byte| **byte == b'\n').count())
        .sum();
    assert_eq!(lines, 2 + 39_990, "with room, the same pipeline writes every row once");
}

fn shell(folder: &Path, before: &[&str], script: &str) -> Ran {
    let mut words = before.to_vec();
    words.extend(["sh", "-c", script]);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(folder);
    binary::run_command(&mut command)
}

/// Waits for something that another process does.
fn wait_for(what: &str, done: impl Fn() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("waited half a minute for {what}");
}
