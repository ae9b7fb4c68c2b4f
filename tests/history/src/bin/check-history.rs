//! `check-history`: judges histories in files.

use carillon_history::{Record, check, read};
use std::fs::File;
use std::io::{BufReader, Write as _};
use std::process::ExitCode;

const HELP: &str = "\
Judges what a run of clients against Carillon left behind.

Usage: check-history FILE...

All FILEs together are one history; - is standard input. A client's records stand in one file, in their order; the
order of clients and files does not matter. A record is a line of JSON with its time in microseconds of one clock:

  {\"at_us\":10,\"what\":\"connected\",\"client\":\"c1\",\"user\":\"ann\"}
  {\"at_us\":20,\"what\":\"joined\",\"client\":\"c1\",\"conversation\":\"room\",\"after_seq\":null,\"head\":0}
  {\"at_us\":30,\"what\":\"send\",\"client\":\"c1\",\"conversation\":\"room\",\"client_id\":\"m1\",\"content\":\"hi\"}
  {\"at_us\":40,\"what\":\"ack\",\"client\":\"c1\",\"conversation\":\"room\",\"client_id\":\"m1\",\"seq\":1,\"id\":\"x\"}
  {\"at_us\":41,\"what\":\"received\",\"client\":\"c1\",\"conversation\":\"room\",\"seq\":1,\"id\":\"x\",\"sender\":\"ann\",\
\"client_id\":\"m1\",\"content\":\"hi\"}
  {\"at_us\":50,\"what\":\"disconnected\",\"client\":\"c1\"}
  {\"at_us\":51,\"what\":\"left\",\"client\":\"c1\",\"conversation\":\"room\"}
  {\"at_us\":60,\"what\":\"seen\",\"observer\":\"c2\",\"user\":\"ann\",\"online\":false}
  {\"at_us\":70,\"what\":\"stored\",\"conversation\":\"room\",\"seq\":1,\"id\":\"x\",\"sender\":\"ann\",\
\"client_id\":\"m1\",\"content\":\"hi\"}
  {\"at_us\":71,\"what\":\"head\",\"conversation\":\"room\",\"head\":1}

and, for a message that was answered with an error (timeout and unavailable leave open whether it will be stored):

  {\"at_us\":40,\"what\":\"refused\",\"client\":\"c1\",\"conversation\":\"room\",\"client_id\":\"m2\",\"code\":\"timeout\"}

The stored and head records are the whole log at the end, when everything has come to rest: without them everything
that was acknowledged counts as lost.

Exit code: 0 if no promise was broken, 1 if one was, 2 for wrong usage or a file that cannot be read.
";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("check-history: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode, String> {
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print(HELP)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(option) = arguments.iter().find(|argument| argument.starts_with('-') && *argument != "-") {
        return Err(format!("unknown option {option}: see check-history --help"));
    }
    if arguments.is_empty() {
        return Err("no history given: name its files, or - for standard input (see --help)".to_owned());
    }
    let mut records = Vec::new();
    for file in arguments {
        records.append(&mut read_file(file)?);
    }
    let report = check(&records);
    print(&report.to_string())?;
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read_file(file: &str) -> Result<Vec<Record>, String> {
    let records = if file == "-" {
        read(std::io::stdin().lock())
    } else {
        let opened = File::open(file).map_err(|error| format!("{file}: cannot be opened: {error}"))?;
        read(BufReader::new(opened))
    };
    records.map_err(|error| format!("{file}: {error}"))
}

/// The reader of the report may close the pipe early. That must be an error here, not a panic.
fn print(text: &str) -> Result<(), String> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| format!("cannot write the report: {error}"))
}
