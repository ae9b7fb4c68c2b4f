//! Formats times as clients get them: RFC 3339 in UTC with milliseconds.

use time::OffsetDateTime;

/// Formats milliseconds since 1970; 0 is `1970-01-01T00:00:00.000Z`. A time after the year 9999 is shown as the last
/// millisecond of 9999, because RFC 3339 has four digits for the year.
pub fn rfc3339(time_ms: u64) -> String {
    const LAST_MS: u64 = 253_402_300_799_999;
    let time_ms = time_ms.min(LAST_MS);
    let at =
        OffsetDateTime::from_unix_timestamp((time_ms / 1_000) as i64).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let mut text = String::with_capacity("1970-01-01T00:00:00.000Z".len());
    // Digit by digit, because the formatter of the standard library takes some thousand instructions for this, and
    // every event and reply has a time.
    for (number, digits, end) in [
        (at.year() as u32, 4, '-'),
        (u32::from(u8::from(at.month())), 2, '-'),
        (u32::from(at.day()), 2, 'T'),
        (u32::from(at.hour()), 2, ':'),
        (u32::from(at.minute()), 2, ':'),
        (u32::from(at.second()), 2, '.'),
        ((time_ms % 1_000) as u32, 3, 'Z'),
    ] {
        for place in (0..digits).rev() {
            text.push(char::from(b'0' + (number / 10_u32.pow(place) % 10) as u8));
        }
        text.push(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_and_a_z() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_700_000_000_007), "2023-11-14T22:13:20.007Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
