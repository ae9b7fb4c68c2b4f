//! Histories as text: one record of JSON a line.

use crate::record::Record;
use std::io::{BufRead, Read as _, Write};

/// A line may be this long: the longest content has 5,000 characters, at most 12 bytes each when escaped, and the ids
/// beside it have at most 128. A file without line ends is so refused before it fills the memory.
pub const LINE_BYTES_MAX: u64 = 128 * 1024;

/// Reads a history; empty lines are passed over.
///
/// # Errors
/// A line that cannot be read, is above [`LINE_BYTES_MAX`] or is no record, with its number from 1.
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

/// Writes a history, a line for each record. Nothing is buffered beyond a line.
///
/// # Errors
/// What `lines` says.
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
