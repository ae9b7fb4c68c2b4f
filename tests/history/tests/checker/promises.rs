//! Boundary cases: for each promise, what is just allowed and what is just not.

use carillon_history::{Kind, Record, What, check, read};

/// Builds a history of two clients of ann and one of ben, with these events in the conversation `r`, and then the log.
/// Events are `time client verb arguments`, rows are `sender client_id content`, and a row's id is `i` and its seq.
fn history(events: &str, rows: &[&str]) -> Vec<Record> {
    let mut text = String::new();
    for (client, user) in [("a1", "ann"), ("a2", "ann"), ("b1", "ben")] {
        text +=
            &format!("{{\"at_us\":0,\"what\":\"connected\",\"client\":\"{client}\",\"user\":\"{user}\"}}\n");
    }
    for event in events.lines().map(str::trim).filter(|line| !line.is_empty()) {
        text += &line(event, rows);
    }
    for (row, seq) in rows.iter().zip(1..) {
        text +=
            &format!("{{\"at_us\":900,\"what\":\"stored\",\"conversation\":\"r\",{}}}\n", event(row, seq));
    }
    text += &format!("{{\"at_us\":900,\"what\":\"head\",\"conversation\":\"r\",\"head\":{}}}\n", rows.len());
    read(text.as_bytes()).expect("the test's history can be read")
}

fn line(text: &str, rows: &[&str]) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [at_us, client, verb, rest @ ..] = words.as_slice() else { panic!("too few words in {text}") };
    let fields = match (*verb, rest) {
        ("connected", [user]) => format!("\"user\":\"{user}\""),
        ("disconnected", []) => String::new(),
        ("send", [id, content]) => format!("\"client_id\":\"{id}\",\"content\":\"{content}\""),
        ("ack", [id, seq]) => format!("\"client_id\":\"{id}\",\"seq\":{seq},\"id\":\"i{seq}\""),
        ("refused", [id, code]) => format!("\"client_id\":\"{id}\",\"code\":\"{code}\""),
        ("joined", [after, head]) => format!("\"after_seq\":{after},\"head\":{head}"),
        ("left", []) => String::new(),
        ("received", [seq]) => {
            let seq = seq.parse().expect("a seq is a number");
            event(rows[seq - 1], seq)
        }
        _ => panic!("unknown: {text}"),
    };
    let comma = if fields.is_empty() { "" } else { "," };
    format!(
        "{{\"at_us\":{at_us},\"what\":\"{verb}\",\"client\":\"{client}\",\"conversation\":\"r\"{comma}{fields}}}\n"
    )
}

fn event(row: &str, seq: usize) -> String {
    let words: Vec<&str> = row.split_whitespace().collect();
    let [sender, id, content] = words.as_slice() else { panic!("no row: {row}") };
    format!(
        "\"seq\":{seq},\"id\":\"i{seq}\",\"sender\":\"{sender}\",\"client_id\":\"{id}\",\"content\":\"{content}\""
    )
}

/// Asserts that the check finds exactly these kinds.
#[track_caller]
fn assert_found(events: &str, rows: &[&str], kinds: &[Kind]) {
    let report = check(&history(events, rows));
    let found: Vec<Kind> = report.totals.keys().copied().collect();
    assert_eq!(found, kinds, "\n{report}");
}

const TWO: &[&str] = &["ben m1 y", "ann m1 x"];

#[test]
fn order_must_follow_real_time() {
    // Complete at the same time at which the other one is sent: either may come first.
    assert_found("1 a1 send m1 x\n 5 a1 ack m1 2\n 5 b1 send m1 y\n 9 b1 ack m1 1", TWO, &[]);
    assert_found(
        "1 a1 send m1 x\n 5 a1 ack m1 2\n 6 b1 send m1 y\n 9 b1 ack m1 1",
        TWO,
        &[Kind::NotLinearizable],
    );
    // Never acknowledged: it may have taken effect at any time, unless a client received it.
    assert_found("1 a1 send m1 x\n 6 b1 send m1 y\n 9 b1 ack m1 1", TWO, &[]);
    let events = "0 a2 joined 1 0\n 1 a1 send m1 x\n 5 a2 received 2\n 6 b1 send m1 y\n 9 b1 ack m1 1";
    assert_found(events, TWO, &[Kind::NotLinearizable]);
}

#[test]
fn a_client_id_is_scoped_to_a_user_and_a_conversation() {
    assert_found("1 a1 send m1 x\n 1 b1 send m1 y\n 9 a1 ack m1 2\n 9 b1 ack m1 1", TWO, &[]);
    // Two clients of one user with one client id: the second gets the first one's seq, and its text is not stored.
    let shared = "1 a1 send m1 x\n 2 a2 send m1 z\n 3 a1 ack m1 1\n 4 a2 ack m1 1";
    assert_found(shared, &["ann m1 x"], &[]);
    assert_found(shared, &["ann m1 x", "ann m1 z"], &[Kind::Duplicated]);
}

#[test]
fn messages_of_one_connection_must_keep_their_order() {
    let rows = &["ann m2 y", "ann m1 x"];
    assert_found("1 a1 send m1 x\n 2 a1 send m2 y", rows, &[Kind::ClientOrder]);
    assert_found("1 a1 send m1 x\n 2 a1 send m2 y\n 3 a1 send m1 x", rows, &[]);
    assert_found("1 a1 send m1 x\n 2 a1 send m1 x\n 3 a1 send m2 y", rows, &[Kind::ClientOrder]);
    assert_found("1 a1 send m1 x\n 2 a1 refused m1 timeout\n 3 a1 send m2 y", rows, &[]);
    assert_found("1 a1 send m1 x\n 2 a1 disconnected\n 3 a1 connected ann\n 4 a1 send m2 y", rows, &[]);
    assert_found("1 a1 send m1 x\n 2 a2 send m2 y", rows, &[]);
    // The second of two attempts is refused: the first one may have taken effect after m2.
    let repeated = "1 a1 send m1 x\n 2 a1 send m1 x\n 3 a1 send m2 y\n 4 a1 refused m1 rate_limited";
    assert_found(repeated, rows, &[]);
    // The first stored message may be that of the user's other client with the same client id.
    assert_found("1 a2 send m2 y\n 2 a1 send m1 x\n 3 a1 send m2 y", rows, &[]);
}

#[test]
fn a_message_counts_as_refused_if_every_attempt_was() {
    let row = &["ann m1 x"];
    assert_found("1 a1 send m1 x\n 2 a1 refused m1 rate_limited", row, &[Kind::RefusedStored]);
    assert_found("1 a1 send m1 x\n 2 a1 refused m1 rate_limited", &[], &[]);
    assert_found("1 a1 send m1 x\n 2 a1 refused m1 unavailable", row, &[]);
    assert_found("1 a1 send m1 x\n 2 a1 refused m1 timeout", row, &[]);
    assert_found("1 a1 send m1 x\n 2 a1 send m1 x\n 3 a1 refused m1 forbidden", row, &[]);
    let again = "1 a1 send m1 x\n 2 a1 refused m1 rate_limited\n 3 a1 send m1 x\n 4 a1 ack m1 1";
    assert_found(again, row, &[]);
}

#[test]
fn subscribers_must_receive_everything_above_their_start() {
    let rows = &["ann m1 x", "ann m2 y", "ann m3 z"];
    let found = |events: &str, kinds: &[Kind]| {
        assert_found(&format!("1 a1 send m1 x\n 1 a1 send m2 y\n 1 a1 send m3 z\n{events}"), rows, kinds);
    };
    found("5 b1 joined null 3", &[]);
    found("5 b1 joined null 1\n 6 b1 received 2\n 6 b1 received 3", &[]);
    found("5 b1 joined null 1\n 6 b1 received 2", &[Kind::Incomplete]);
    found("5 b1 joined null 1\n 6 b1 received 3", &[Kind::Missed]);
    found("5 b1 joined null 1\n 6 b1 received 3\n 7 b1 received 2", &[Kind::ReceivedReordered]);
    found("5 b1 joined null 1\n 6 b1 received 3\n 7 b1 left", &[Kind::Missed]);
    found("5 b1 joined null 1\n 6 b1 received 2\n 7 b1 left", &[]);
    found("5 b1 joined null 2\n 6 b1 received 2\n 6 b1 received 3", &[Kind::BelowStart]);
    found("5 b1 joined 1 3\n 6 b1 received 2\n 6 b1 received 3", &[]);
    // Join again after the last received seq, after none, and after another one.
    let again = "6 b1 received 1\n 7 b1 disconnected\n 8 b1 connected ben";
    found(&format!("5 b1 joined 0 1\n {again}\n 9 b1 joined 1 3\n 9 b1 received 2\n 9 b1 received 3"), &[]);
    found(&format!("5 b1 joined 0 1\n {again}\n 9 b1 joined null 3"), &[]);
    found(&format!("5 b1 joined 0 1\n {again}\n 9 b1 joined 2 3\n 9 b1 received 3"), &[Kind::WrongCursor]);
    found(
        &format!("5 b1 joined 0 1\n {again}\n 9 b1 received 2\n 9 b1 joined 1 3\n 9 b1 received 3"),
        &[Kind::Early],
    );
    found(
        "5 b1 joined 0 3\n 6 b1 received 1\n 6 b1 received 2\n 6 b1 received 3\n 7 b1 received 1",
        &[Kind::Twice],
    );
}

#[test]
fn a_user_is_online_while_a_client_is_connected() {
    let seen = |online| Record {
        at_us: 950,
        what: What::Seen { observer: "b1".to_owned(), user: "ann".to_owned(), online },
    };
    for (events, online) in
        [("1 a1 disconnected", true), ("1 a1 disconnected\n 2 a2 disconnected", false), ("", true)]
    {
        let mut records = history(events, &[]);
        records.push(seen(online));
        assert!(check(&records).is_good(), "{events}: {online}");
        records.push(seen(!online));
        let kind = if online { Kind::Unseen } else { Kind::Ghost };
        assert_eq!(check(&records).total(kind), 1, "{events}: {online}");
    }
}

#[test]
fn an_empty_history_is_good() {
    assert!(check(&[]).is_good());
}
