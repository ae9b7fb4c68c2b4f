//! Tests the command `check-history` as a person or a script uses it.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

const SENT: &str = r#"{"at_us":1,"what":"connected","client":"c","user":"ann"}
{"at_us":2,"what":"send","client":"c","conversation":"r","client_id":"m1","content":"hi"}
{"at_us":3,"what":"ack","client":"c","conversation":"r","client_id":"m1","seq":1,"id":"x"}
"#;
const STORED: &str = r#"{"at_us":4,"what":"stored","conversation":"r","seq":1,"id":"x","sender":"ann","client_id":"m1","content":"hi"}
{"at_us":5,"what":"head","conversation":"r","head":1}
"#;

fn run(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_check-history"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    // A command that reads no input may have ended already; its output is judged below.
    let _ = child.stdin.take().expect("the command has an input").write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().expect("the command ends");
    let text = |bytes| String::from_utf8(bytes).expect("the output is UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn a_history_of_two_files_is_judged_as_one() {
    let file = std::env::temp_dir().join(format!("carillon-history-{}.jsonl", std::process::id()));
    std::fs::write(&file, STORED).expect("the history can be written");
    let name = file.to_str().expect("the path is UTF-8");
    let (code, report, errors) = run(&["-", name], SENT);
    std::fs::remove_file(&file).expect("the history can be removed");
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{report}");
    assert!(report.starts_with("1 acknowledged, 0 lost, "), "{report}");
}

#[test]
fn a_broken_promise_is_reported_with_exit_code_1() {
    let (code, report, _) = run(&["-"], SENT);
    assert_eq!(code, Some(1), "{report}");
    assert!(report.contains("m1 of ann in r: acknowledged at seq 1 as x"), "{report}");
}

#[test]
fn wrong_usage_is_explained() {
    for (arguments, expected) in [
        (&[][..], "no history given"),
        (&["--fast"], "unknown option --fast"),
        (&["/nonexistent/history"], "cannot be opened"),
        (&["-"], "-: line 1: not a record"),
    ] {
        let (code, report, errors) = run(arguments, "nonsense\n");
        assert_eq!((code, report.as_str()), (Some(2), ""));
        assert!(errors.contains(expected), "{errors}");
    }
}

/// The records in the help text form a good history.
#[test]
fn the_records_in_the_help_can_be_read() {
    let (code, help, _) = run(&["--help"], "");
    assert_eq!(code, Some(0));
    let records: Vec<&str> = help.lines().map(str::trim).filter(|line| line.starts_with('{')).collect();
    assert_eq!(records.len(), 11, "{help}");
    let (code, report, errors) = run(&["-"], &records[..10].join("\n"));
    assert_eq!(code, Some(0), "{report}{errors}");
    let (code, _, errors) = run(&["-"], records[10]);
    // The last example, a refusal, is of a client that never connected.
    assert_eq!((code, errors.as_str()), (Some(1), ""));
}
