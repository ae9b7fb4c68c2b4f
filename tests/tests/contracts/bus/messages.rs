//! The contract of core messages: publish, subscribe and request.

use super::{SOON, bytes};
use bytes::Bytes;
use carillon_proto::limits::BUS_MESSAGE_BYTES_MAX;
use carillon_proto::subject;
use carillon_runtime::bus::{Bus, BusError, Incoming, Message, Subscription};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

async fn hear(subscription: &mut Subscription) -> Incoming {
    timeout(SOON, subscription.next()).await.expect("in time").expect("an open subscription")
}

async fn hear_message(subscription: &mut Subscription) -> Message {
    match hear(subscription).await {
        Incoming::Message(message) => message,
        Incoming::Lost => panic!("an unexpected mark of lost messages"),
    }
}

fn number(payload: &Bytes) -> u64 {
    std::str::from_utf8(payload).expect("text").parse().expect("a number")
}

/// Answers every request with `prefix` and the request's payload.
fn answer(mut subscription: Subscription, prefix: &'static str) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(Incoming::Message(Message { payload, reply })) = subscription.next().await {
            let mut answer = prefix.as_bytes().to_vec();
            answer.extend_from_slice(&payload);
            reply.expect("a request").send(answer.into());
        }
    })
}

pub async fn every_subscriber_receives_all_messages_in_order(bus: Arc<dyn Bus>) {
    const COUNT: u64 = 1_000;
    bus.publish(&subject::partition(1), bytes("nobody hears this")).await.expect("published");
    let mut first = bus.subscribe(&subject::partition(1), None).await.expect("subscribed");
    let mut second = bus.subscribe(&subject::partition(1), None).await.expect("subscribed");
    let mut other = bus.subscribe(&subject::partition(11), None).await.expect("subscribed");
    assert!(first.try_next().is_none());
    for count in 0..COUNT {
        bus.publish(&subject::partition(1), bytes(count.to_string())).await.expect("published");
    }
    bus.publish(&subject::partition(11), bytes("end")).await.expect("published");
    for subscription in [&mut first, &mut second] {
        for count in 0..COUNT {
            let message = hear_message(subscription).await;
            assert_eq!(number(&message.payload), count);
            assert!(message.reply.is_none(), "a published message must not have a reply address");
        }
    }
    assert_eq!(
        hear_message(&mut other).await.payload,
        "end",
        "messages of the other subject must not arrive"
    );
    assert!(first.try_next().is_none() && other.try_next().is_none());
}

/// Message-workers answer reads as one group, so that each read is answered once.
pub async fn one_subscriber_of_a_group_receives_each_message(bus: Arc<dyn Bus>) {
    const COUNT: u64 = 400;
    let subscribe = async |group| bus.subscribe(subject::READ, group).await.expect("subscribed");
    let groups =
        [Some(subject::READ_GROUP), Some(subject::READ_GROUP), Some(subject::READ_GROUP), Some("b"), None];
    let mut subscriptions = Vec::new();
    for group in groups {
        subscriptions.push(subscribe(group).await);
    }
    for count in 0..COUNT {
        bus.publish(subject::READ, bytes(count.to_string())).await.expect("published");
    }
    let all: Vec<u64> = (0..COUNT).collect();
    for alone in [4, 3] {
        for expected in &all {
            assert_eq!(number(&hear_message(&mut subscriptions[alone]).await.payload), *expected);
        }
    }
    let mut heard = Vec::new();
    while heard.len() < COUNT as usize {
        for subscription in &mut subscriptions[..3] {
            while let Some(incoming) = subscription.try_next() {
                let Incoming::Message(message) = incoming else {
                    panic!("an unexpected mark of lost messages")
                };
                heard.push(number(&message.payload));
            }
        }
        sleep(Duration::from_millis(1)).await;
    }
    heard.sort_unstable();
    assert_eq!(heard, all, "each message must arrive at one subscriber, once");
    assert!(subscriptions.iter_mut().all(|subscription| subscription.try_next().is_none()));
}

pub async fn requests_are_answered(bus: Arc<dyn Bus>) {
    let subject = subject::presence(3);
    let _answering = answer(bus.subscribe(&subject, None).await.expect("subscribed"), "heard ");
    let began = Instant::now();
    for count in 0..100 {
        let reply = bus.request(&subject, bytes(count.to_string()), SOON).await;
        assert_eq!(reply, Ok(bytes(format!("heard {count}"))));
    }
    assert!(began.elapsed() < SOON, "answers must arrive without a delay");
    // A subscriber that does not answer does not delay the answer of another one.
    let mut silent = bus.subscribe(&subject, None).await.expect("subscribed");
    let ignoring = tokio::spawn(async move { while silent.next().await.is_some() {} });
    assert_eq!(bus.request(&subject, bytes("x"), SOON).await, Ok(bytes("heard x")));
    ignoring.abort();
}

pub async fn concurrent_requests_get_their_own_answers(bus: Arc<dyn Bus>) {
    for _ in 0..2 {
        let subscription = bus.subscribe(subject::READ, Some(subject::READ_GROUP)).await.expect("subscribed");
        answer(subscription, "");
    }
    let requests: Vec<_> = (0..500)
        .map(|count| {
            let bus = bus.clone();
            tokio::spawn(async move { bus.request(subject::READ, bytes(count.to_string()), SOON).await })
        })
        .collect();
    for (count, request) in requests.into_iter().enumerate() {
        assert_eq!(request.await.expect("no panic"), Ok(bytes(count.to_string())));
    }
}

/// The caller can report `unavailable` at once instead of waiting for the timeout of 30 s.
pub async fn a_request_without_a_subscriber_fails_at_once(bus: Arc<dyn Bus>) {
    let began = Instant::now();
    let reply = bus.request(&subject::partition(2), bytes("x"), Duration::from_secs(30)).await;
    assert!(matches!(reply, Err(BusError::Unavailable(_))), "{reply:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

pub async fn a_request_without_an_answer_times_out(bus: Arc<dyn Bus>) {
    let mut silent = bus.subscribe(&subject::partition(2), None).await.expect("subscribed");
    let time = Duration::from_millis(300);
    for keep in [true, false] {
        let began = Instant::now();
        let asking = bus.clone();
        let request =
            tokio::spawn(async move { asking.request(&subject::partition(2), bytes("x"), time).await });
        let message = hear_message(&mut silent).await;
        let kept = keep.then_some(message);
        let reply = request.await.expect("no panic");
        assert!(matches!(reply, Err(BusError::Timeout(_))), "{reply:?}");
        let took = began.elapsed();
        assert!(took >= time && took < time + Duration::from_secs(2), "{took:?}");
        // An answer after the timeout is dropped.
        if let Some(reply) = kept.and_then(|message| message.reply) {
            reply.send(bytes("late"));
        }
    }
}

pub async fn a_dropped_subscription_receives_no_more_messages(bus: Arc<dyn Bus>) {
    let subject = subject::partition(3);
    let mut kept = bus.subscribe(&subject, Some("group")).await.expect("subscribed");
    let dropped = bus.subscribe(&subject, Some("group")).await.expect("subscribed");
    drop(dropped);
    // The end takes effect a moment after the drop.
    sleep(Duration::from_millis(300)).await;
    for count in 0..50 {
        bus.publish(&subject, bytes(count.to_string())).await.expect("published");
    }
    for count in 0..50 {
        assert_eq!(
            number(&hear_message(&mut kept).await.payload),
            count,
            "all messages must go to the subscriber that is left"
        );
    }
    drop(kept);
    sleep(Duration::from_millis(300)).await;
    let reply = bus.request(&subject, bytes("x"), Duration::from_secs(5)).await;
    assert!(matches!(reply, Err(BusError::Unavailable(_))), "{reply:?}");
}

/// Queues are bounded. Messages without room are dropped, and `Incoming::Lost` takes their place; the publisher never
/// waits.
pub async fn a_slow_subscriber_loses_messages_and_delays_no_other(bus: Arc<dyn Bus>) {
    const COUNT: u64 = 20_000;
    let subject = subject::ephemeral(0);
    let mut slow = bus.subscribe(&subject, None).await.expect("subscribed");
    let mut quick = bus.subscribe(&subject, None).await.expect("subscribed");
    let (hearing, mut heard) = tokio::sync::watch::channel(0);
    let listening = tokio::spawn(async move {
        for count in 0..COUNT {
            assert_eq!(number(&hear_message(&mut quick).await.payload), count);
            hearing.send_replace(count);
        }
        quick
    });
    let began = Instant::now();
    for count in 0..COUNT {
        bus.publish(&subject, bytes(count.to_string())).await.expect("published");
        // Stays within 1,000 messages of the quick subscriber, so that it loses none.
        heard.wait_for(|heard| heard + 1_000 > count).await.expect("the quick subscriber keeps up");
    }
    assert!(began.elapsed() < SOON, "a slow subscriber delayed the others: {:?}", began.elapsed());
    let mut quick = listening.await.expect("the quick subscriber received all messages");

    bus.publish(&subject, bytes("12345678")).await.expect("published");
    assert_eq!(number(&hear_message(&mut quick).await.payload), 12_345_678);
    let mut heard = Vec::new();
    while let Incoming::Message(message) = hear(&mut slow).await {
        heard.push(number(&message.payload));
    }
    assert!(
        !heard.is_empty() && heard.len() < COUNT as usize,
        "{} of {COUNT} messages arrived before the mark",
        heard.len()
    );
    assert!(heard.iter().copied().eq(0..heard.len() as u64), "messages are missing before the mark");
    // The queue has room again. Messages that were under way when reading began may come first.
    bus.publish(&subject, bytes("87654321")).await.expect("published");
    let mut last = heard.len() as u64 - 1;
    while last != 87_654_321 {
        if let Incoming::Message(message) = hear(&mut slow).await {
            let next = number(&message.payload);
            assert!(next > last, "message {next} came after {last}");
            last = next;
        }
    }
    assert!(slow.try_next().is_none());
}

pub async fn messages_up_to_the_size_limit_arrive_whole_and_larger_ones_are_refused(bus: Arc<dyn Bus>) {
    let subject = subject::partition(0);
    let mut subscription = bus.subscribe(&subject, None).await.expect("subscribed");
    let payload = |size: usize| Bytes::from_iter((0..size).map(|at| (at % 251) as u8));
    for size in [0, 1, 64 * 1024, BUS_MESSAGE_BYTES_MAX] {
        bus.publish(&subject, payload(size)).await.expect("published");
        assert_eq!(hear_message(&mut subscription).await.payload, payload(size));
    }
    let large = payload(BUS_MESSAGE_BYTES_MAX + 1);
    assert!(matches!(bus.publish(&subject, large.clone()).await, Err(BusError::Unavailable(_))));
    let reply = bus.request(&subject, large, SOON).await;
    assert!(matches!(reply, Err(BusError::Unavailable(_))), "{reply:?}");

    let _answering = answer(subscription, "");
    let reply = bus.request(&subject, payload(BUS_MESSAGE_BYTES_MAX), SOON).await;
    assert_eq!(reply, Ok(payload(BUS_MESSAGE_BYTES_MAX)));
}
