//! Tests of [`Typists`], by tables and against a model.

use super::*;
use proptest::prelude::*;

const ANN: &str = "ann";

/// One conversation and its timer.
#[derive(Default)]
struct World {
    typists: Typists,
    timeouts_ms: Vec<u64>,
    now_ms: u64,
    /// The states that members received, and when.
    shown: Vec<(u64, bool)>,
}

impl World {
    fn note(&mut self, update: Option<TypingUpdate>) {
        self.shown.extend(update.map(|update| (self.now_ms, update.typing)));
        self.timeouts_ms.extend(self.typists.poll_timeout_ms(ANN));
    }

    /// Lets time pass, and applies what falls due.
    fn until(&mut self, until_ms: u64) {
        while let Some(timeout_ms) =
            self.timeouts_ms.iter().copied().min().filter(|timeout_ms| *timeout_ms <= until_ms)
        {
            self.timeouts_ms.retain(|other| *other != timeout_ms);
            self.now_ms = timeout_ms;
            let update = self.typists.handle_timeout(ANN, timeout_ms, timeout_ms);
            self.note(update);
        }
        self.now_ms = until_ms;
    }

    fn send(&mut self, typing: bool, sent: &[&str]) {
        let user = UserId::parse(ANN).expect("valid");
        let sent = sent.iter().map(ToString::to_string).collect();
        let update =
            self.typists.handle_input(&user, "Ann", TypingInput { typing, here: true, sent }, self.now_ms);
        assert!(
            update.as_ref().is_none_or(|update| update.pass_on),
            "typing from this gateway must be passed on"
        );
        self.note(update);
    }

    fn message(&mut self, client_id: &str) {
        let update = self.typists.handle_message(ANN, client_id, self.now_ms);
        self.note(update);
    }

    fn leave(&mut self) {
        let update = self.typists.handle_leave(ANN, true, self.now_ms);
        self.note(update);
    }
}

/// An action of the typist.
#[derive(Debug, Clone, Copy)]
enum Act {
    Start,
    Stop,
    Message,
    Leave,
}

type Acts = [(u64, Act)];
type Shown = [(u64, bool)];

fn play(acts: &Acts) -> Vec<(u64, bool)> {
    let mut world = World::default();
    for (at_ms, act) in acts {
        world.until(*at_ms);
        match act {
            Act::Start => world.send(true, &[]),
            Act::Stop => world.send(false, &[]),
            Act::Message => world.message("m"),
            Act::Leave => world.leave(),
        }
    }
    world.until(60_000);
    assert!(world.typists.0.is_empty() && world.timeouts_ms.is_empty(), "no typist or timer may be left");
    world.shown
}

/// Before the fix, a start, a stop and a start within a second were all passed on.
#[test]
fn the_latest_state_is_sent_at_most_once_a_second() {
    use Act::{Leave, Message, Start, Stop};
    let tables: [(&Acts, &Shown); 10] = [
        (&[(0, Start)], &[(0, true), (5_000, false)]),
        (&[(0, Start), (200, Stop), (400, Start)], &[(0, true), (5_400, false)]),
        (&[(0, Start), (200, Stop)], &[(0, true), (1_000, false)]),
        (&[(0, Start), (200, Stop), (1_100, Start), (1_200, Stop)], &[(0, true), (1_000, false)]),
        (&[(0, Start), (900, Start)], &[(0, true), (5_900, false)]),
        (&[(0, Start), (3_000, Stop)], &[(0, true), (3_000, false)]),
        (&[(0, Start), (200, Message)], &[(0, true), (200, false)]),
        (
            &[(0, Start), (200, Leave), (300, Start)],
            &[(0, true), (200, false), (1_200, true), (5_300, false)],
        ),
        (&[(0, Start), (200, Stop), (300, Message)], &[(0, true), (300, false)]),
        (&[(0, Stop), (10, Message), (20, Leave)], &[]),
    ];
    for (acts, shown) in tables {
        assert_eq!(play(acts), shown, "{acts:?}");
    }
}

/// Before the fix, a message that was sent before typing began ended that typing.
#[test]
fn typing_outlives_the_messages_that_were_sent_before_it() {
    let mut world = World::default();
    world.send(true, &["m1", "m2"]);
    world.until(100);
    world.message("m1");
    world.message("m2");
    assert_eq!(world.shown, [(0, true)]);
    world.message("m3");
    assert_eq!(world.shown, [(0, true), (100, false)]);
    world.until(300);
    world.send(true, &["m3"]);
    world.message("m4");
    world.until(10_000);
    assert_eq!(
        world.shown,
        [(0, true), (100, false)],
        "the delayed typing must be dropped when a later message ends it"
    );
}

#[test]
fn typing_from_another_gateway_is_not_passed_on() {
    let (mut typists, user) = (Typists::default(), UserId::parse(ANN).expect("valid"));
    let input = |typing, here| TypingInput { typing, here, sent: Box::default() };
    assert!(!typists.handle_input(&user, "Ann", input(true, false), 0).expect("a state is sent").pass_on);
    assert_eq!(typists.poll_timeout_ms(ANN), Some(5_000));
    assert_eq!(typists.handle_input(&user, "Ann", input(false, true), 100), None);
    assert_eq!(typists.poll_timeout_ms(ANN), Some(1_000));
    assert!(typists.handle_timeout(ANN, 1_000, 1_000).expect("a state is sent").pass_on);
    assert_eq!(typists.handle_timeout(ANN, 5_000, 5_000), None, "the end was already sent");
    assert_eq!(typists.poll_timeout_ms(ANN), Some(2_000));
    assert!(typists.handle_input(&user, "Ann", input(true, true), 2_000).expect("a state is sent").pass_on);
    assert_eq!(typists.poll_timeout_ms(ANN), None, "a timer is already set");
    assert_eq!(typists.handle_timeout(ANN, 2_000, 2_000), None);
    let end_ms = typists.poll_timeout_ms(ANN).expect("an end");
    assert!(
        !typists.handle_timeout(ANN, end_ms, end_ms).expect("a state is sent").pass_on,
        "an end by timeout must not be passed on"
    );
}

proptest! {
    /// Members receive at most one state a second, except ends, which they receive at once. They never receive two
    /// stops in succession. Once the typist is quiet, they have received the final state.
    #[test]
    fn members_receive_the_final_state(acts in prop::collection::vec((0u64..1_500, 0u8..4), 0..40)) {
        let mut world = World::default();
        let (mut now_ms, mut typing_until_ms) = (0, 0);
        let mut ends = Vec::new();
        for (pause_ms, act) in acts {
            now_ms += pause_ms;
            world.until(now_ms);
            let before = world.shown.len();
            match act {
                0 => { world.send(true, &[]); typing_until_ms = now_ms + TYPING_MS; }
                1 => { world.send(false, &[]); typing_until_ms = 0; }
                2 => { world.message("m"); typing_until_ms = 0; }
                _ => { world.leave(); typing_until_ms = 0; }
            }
            if act > 1 {
                ends.extend(before..world.shown.len());
            }
        }
        world.until(now_ms + TYPING_RENEWAL_MS);
        let known = world.shown.last().is_some_and(|(_, typing)| *typing);
        prop_assert_eq!(known, typing_until_ms > now_ms + TYPING_RENEWAL_MS);
        world.until(now_ms + 10_000);
        prop_assert!(world.shown.last().is_none_or(|(_, typing)| !typing));
        prop_assert!(world.typists.0.is_empty());
        for (index, pair) in world.shown.windows(2).enumerate() {
            let [(before_ms, before), (at_ms, now)] = pair else { unreachable!() };
            prop_assert!(*before || *now, "two stops in succession");
            let ended = ends.contains(&(index + 1));
            prop_assert!(ended || at_ms - before_ms >= TYPING_RENEWAL_MS, "{:?}", world.shown);
        }
    }
}
