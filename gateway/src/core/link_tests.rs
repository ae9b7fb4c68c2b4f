//! Tests of [`Link`]: when batches are requested again, and when everything is registered again.

use super::*;

const NONE: RoomDigest = RoomDigest { expected: Some(0), any: false };
const SOME: RoomDigest = RoomDigest { expected: Some(0xA), any: true };

fn beat(epoch: u64, number: u64) -> wire::Beat {
    wire::Beat { epoch, number, ..wire::Beat::default() }
}

fn hashed(interest_hash: u64, counter: u64) -> wire::Beat {
    wire::Beat { interest_hash, counter, ..beat(7, 0) }
}

fn resend(from: u64) -> Option<Repair> {
    Some(Repair { resend: Some(from), resync: false })
}

fn tick(link: &mut Link, now_ms: u64, serves: bool) -> Option<Repair> {
    link.handle_timeout(now_ms, serves);
    link.poll_repair()
}

const RESYNC: Option<Repair> = Some(Repair { resend: None, resync: true });

#[test]
fn a_missing_batch_is_requested_once() {
    let mut link = Link::default();
    assert!(link.handle_reply(7, false));
    link.handle_batch(7, 1);
    assert_eq!(link.poll_repair(), None);
    link.handle_batch(7, 4);
    assert_eq!(link.poll_repair(), resend(2));
    link.handle_batch(7, 3);
    assert_eq!(link.poll_repair(), None, "a resent batch that arrives late must not cause another repair");
    link.handle_batch(7, 5);
    assert_eq!(link.poll_repair(), None);
}

/// Breaking it: without the comparison with the beat's number, the loss of the last batch is never noticed.
#[test]
fn a_beat_reveals_that_the_last_batch_was_lost() {
    let mut link = Link::default();
    link.handle_reply(7, false);
    link.handle_batch(7, 1);
    link.handle_beat(0, &beat(7, 3), &NONE);
    assert_eq!(link.poll_repair(), resend(2));
    link.handle_beat(0, &beat(7, 3), &NONE);
    assert_eq!(link.poll_repair(), None);
}

/// Acknowledgements are only in batches: if the gateway only registered again, senders would wait until their
/// timeout.
#[test]
fn batches_are_requested_even_when_everything_is_registered_again() {
    let mut link = Link::default();
    link.handle_reply(7, false);
    link.handle_batch(7, 1);
    link.handle_loss();
    link.handle_batch(7, 4);
    assert_eq!(link.poll_repair(), Some(Repair { resend: Some(2), resync: true }));
    link.handle_batch(9, 3);
    assert_eq!(
        link.poll_repair(),
        Some(Repair { resend: Some(1), resync: true }),
        "the first batches of a new owner are missing"
    );
    link.handle_batch(9, 6);
    link.handle_reply(11, true);
    assert_eq!(link.poll_repair(), None, "missing batches of a former owner must not be requested");
}

/// Before the fix, outcomes in a last batch that was lost waited for the next beat, up to a second.
#[test]
fn batches_are_requested_as_soon_as_messages_may_be_lost() {
    let mut link = Link::default();
    link.handle_loss();
    assert_eq!(link.poll_repair(), RESYNC, "without an owner, only a registration is possible");
    link.handle_reply(7, true);
    link.handle_batch(7, 1);
    link.handle_loss();
    assert_eq!(link.poll_repair(), Some(Repair { resend: Some(2), resync: true }));
    link.handle_beat(0, &beat(7, 1), &NONE);
    assert_eq!(link.poll_repair(), None);
}

#[test]
fn batches_whose_request_was_not_answered_are_requested_again() {
    let mut link = Link::default();
    link.handle_reply(7, false);
    link.handle_batch(7, 3);
    assert_eq!(link.poll_repair(), resend(1));
    link.handle_unanswered(7, 1);
    link.handle_batch(7, 4);
    assert_eq!(link.poll_repair(), None, "an unanswered request must not be repeated at once");
    link.handle_batch(7, 6);
    link.handle_timeout(1_000, false);
    assert_eq!(link.poll_repair(), resend(1));
    link.handle_unanswered(7, 1);
    link.handle_reply(9, false);
    link.handle_timeout(2_000, false);
    assert_eq!(
        link.poll_repair(),
        RESYNC,
        "a new owner does not have the batches, so only a registration helps"
    );
    link.handle_unanswered(7, 1);
    link.handle_timeout(3_000, false);
    assert_eq!(link.poll_repair(), None);
}

/// A worker of an older version does not send the counter of the last request that it handled.
#[test]
fn a_wrong_hash_without_a_counter_counts_when_nothing_is_under_way() {
    let mut link = Link::default();
    link.handle_reply(7, false);
    link.next_counter(true);
    for expected in [None, None, RESYNC] {
        link.handle_beat(0, &hashed(1, 0), &SOME);
        assert_eq!(
            link.poll_repair(),
            expected,
            "a wrong hash counts only at the third beat, because the registration may be under way"
        );
    }
    link.handle_beat(0, &hashed(0xA, 0), &SOME);
    assert_eq!(link.poll_repair(), None);
}

/// Before the fix, a hash proved nothing if a user had joined or left between two beats. With constant joins and
/// leaves, a room that the owner had lost received no events any more.
#[test]
fn a_wrong_hash_counts_while_others_join_and_leave() {
    let mut link = Link::default();
    link.handle_reply(7, false);
    let first = link.next_counter(true);
    link.handle_beat(0, &hashed(1, first), &SOME);
    let second = link.next_counter(true);
    link.handle_beat(0, &hashed(1, first), &SOME);
    assert_eq!(
        link.poll_repair(),
        None,
        "the beat is older than the last registration, so its hash proves nothing"
    );
    link.handle_beat(0, &hashed(1, second), &RoomDigest { expected: None, any: true });
    assert_eq!(link.poll_repair(), None, "without an expected hash, the beat's hash proves nothing");
    let third = link.next_counter(true);
    link.next_counter(false);
    link.handle_beat(0, &hashed(1, third), &SOME);
    assert_eq!(
        link.poll_repair(),
        RESYNC,
        "a later request that is no registration must not hide the wrong hash"
    );
    link.handle_beat(0, &hashed(1, third), &SOME);
    link.handle_beat(0, &hashed(0xA, third), &SOME);
    link.handle_beat(0, &hashed(1, third), &SOME);
    assert_eq!(
        link.poll_repair(),
        None,
        "a single wrong hash after a right one must not cause a registration"
    );
}

#[test]
fn a_new_owner_gets_all_registrations_and_a_former_one_is_ignored() {
    let mut link = Link::default();
    assert!(link.handle_reply(7, false));
    link.handle_beat(0, &beat(9, 0), &SOME);
    assert_eq!(link.poll_repair(), RESYNC);
    assert!(!link.handle_reply(7, true));
    link.handle_batch(7, 99);
    link.handle_beat(0, &wire::Beat { lag_ms: 99_000, ..beat(7, 99) }, &SOME);
    assert_eq!(link.poll_repair(), None);
    assert_eq!(link.overloaded(), None);
    link.handle_batch(9, 1);
    assert_eq!(link.poll_repair(), None);
    link.handle_batch(11, 1);
    assert_eq!(link.poll_repair(), RESYNC);
}

/// Before the fix, all other rooms waited for two beats and received nothing meanwhile.
#[test]
fn a_new_owner_that_first_answers_a_join_gets_all_registrations() {
    let mut link = Link::default();
    assert!(link.handle_reply(7, false));
    assert_eq!(link.poll_repair(), None, "the first owner already has all registrations");
    assert!(link.handle_reply(9, false));
    assert_eq!(link.poll_repair(), RESYNC);
    assert!(link.handle_reply(11, true));
    assert_eq!(link.poll_repair(), None, "an owner that answers a full registration needs no other one");
}

#[test]
fn silence_causes_a_registration_only_with_rooms() {
    let mut link = Link::default();
    assert_eq!(tick(&mut link, 0, false), None);
    assert_eq!(tick(&mut link, 10_000, false), None);
    assert_eq!(tick(&mut link, 12_999, true), None);
    assert_eq!(tick(&mut link, 13_000, true), RESYNC);
    assert_eq!(tick(&mut link, 14_000, true), None);
}

#[test]
fn an_owner_that_did_not_send_all_heads_gets_another_registration() {
    let mut link = Link::default();
    link.handle_beat(1_000, &hashed(0xA, 0), &SOME);
    assert_eq!(link.poll_repair(), RESYNC, "a new owner needs a registration");
    assert_eq!(tick(&mut link, 1_500, true), None);
    link.handle_resynced(false);
    link.handle_beat(2_000, &hashed(0xA, 0), &SOME);
    assert_eq!(link.poll_repair(), None, "the owner already has the registration");
    assert_eq!(tick(&mut link, 2_500, true), RESYNC);
    assert_eq!(tick(&mut link, 3_500, true), RESYNC);
    link.handle_resynced(true);
    assert_eq!(tick(&mut link, 4_500, true), None);
    link.handle_resynced(false);
    assert_eq!(tick(&mut link, 5_500, false), None, "a gateway without rooms needs no registration");
}

#[test]
fn a_lagging_owner_refuses_commands_until_it_has_caught_up() {
    let mut link = Link::default();
    link.handle_beat(0, &wire::Beat { lag_ms: LAG_MAX_MS + 1, ..beat(1, 0) }, &NONE);
    assert_eq!(link.overloaded(), Some(LAG_MAX_MS + 1));
    link.handle_beat(0, &wire::Beat { lag_ms: 3, ..beat(1, 0) }, &NONE);
    assert_eq!(link.overloaded(), None);
}
