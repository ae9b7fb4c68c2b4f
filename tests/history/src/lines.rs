//! Histories as text: one JSON record on each line.

use crate::record::Record;
use std::io::{BufRead, Read as _, Write};

/// The longest line, in bytes. The longest content has 5,000 characters with at most 12 bytes each when escaped, and
/// ids have at most 128. The limit refuses a file without line ends before it fills the memory.
pub const LINE_BYTES_MAX: u64 = 128 * 1024;

/// Reads a history; empty lines are skipped.
///
/// # Errors
/// If a line cannot be read, is longer than [`LINE_BYTES_MAX`] or is no record. The error names the line, counted from
/// 1.
pub fn read(mut lines: impl BufRead) -> Result<Vec<Record>, String> {
    let mut records = Vec::new();
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let length = lines
            .by_ref()
            .take(LINE_BYTES_MAX + 1)
            .read_until(b'\n', &mut line)
            .map_err(|error| format!("line {number}: cannot be read: {error}"))?;
        if length == 0 {
            break;
        }
        if line.len() as u64 > LINE_BYTES_MAX {
            return Err(format!(
                "line {number}: longer than {LINE_BYTES_MAX} bytes: give one record of JSON a line"
            ));
        }
        let text = line.trim_ascii();
        if !text.is_empty() {
            let record = serde_json::from_slice(text).map_err(|error| {
                format!("line {number}: not a record ({error}): give one record of JSON a line")
            })?;
            records.push(record);
        }
    }
    Ok(records)
}

/// Writes a history, one line for each record. Only one line is buffered at a time.
///
/// # Errors
/// If `lines` cannot be written to.
pub fn write(mut lines: impl Write, records: &[Record]) -> std::io::Result<()> {
    let mut line = Vec::new();
    for record in records {
        line.clear();
        serde_json::to_writer(&mut line, record)?;
        line.push(b'\n');
        lines.write_all(&line)?;
    }
    Ok(())
}
