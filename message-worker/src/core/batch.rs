//! Encodes messages to gateways. An event is encoded once, for the row that was committed, and its bytes are copied
//! from there into the batch of each gateway.

use bytes::{BufMut, Bytes, BytesMut};
use carillon_proto::wire;
use prost::Message as _;

// Field numbers of proto/carillon/v1/bus.proto. The tests decode what is built here.
const TO_GATEWAY_BATCH: u32 = 1;
const TO_GATEWAY_EPHEMERAL: u32 = 4;
const BATCH_EVENTS: u32 = 4;
const EPHEMERAL_BATCH_EVENTS: u32 = 2;
const REPLY_RESENT: u32 = 3;
const RESENT_BATCHES: u32 = 1;

/// The bytes that one event or outcome of `length` bytes takes in a batch.
pub(crate) fn field_bytes(length: usize) -> usize {
    1 + prost::length_delimiter_len(length) + length
}

/// Encodes a numbered batch. Returns the message to the gateway, and the slice of it that is the batch alone.
pub(crate) fn numbered(batch: &wire::Batch, events: &[Bytes]) -> (Bytes, Bytes) {
    let length = batch.encoded_len() + events.iter().map(|event| field_bytes(event.len())).sum::<usize>();
    let mut message = BytesMut::with_capacity(field_bytes(length));
    put_delimiter(&mut message, TO_GATEWAY_BATCH, length);
    let start = message.len();
    put_message(&mut message, batch);
    events.iter().for_each(|event| put_field(&mut message, BATCH_EVENTS, event));
    let message = message.freeze();
    let batch = message.slice(start..);
    (message, batch)
}

/// Encodes ephemeral events of one gateway for another.
pub(crate) fn ephemeral(gateway: &str, events: &[Bytes]) -> Bytes {
    let batch = wire::EphemeralBatch { gateway: gateway.to_owned(), events: Vec::new() };
    let length = batch.encoded_len() + events.iter().map(|event| field_bytes(event.len())).sum::<usize>();
    let mut message = BytesMut::with_capacity(field_bytes(length));
    put_delimiter(&mut message, TO_GATEWAY_EPHEMERAL, length);
    put_message(&mut message, &batch);
    events.iter().for_each(|event| put_field(&mut message, EPHEMERAL_BATCH_EVENTS, event));
    message.freeze()
}

/// Encodes the reply that sends kept batches again.
pub(crate) fn resent(epoch: u64, batches: &[Bytes]) -> Bytes {
    let reply = wire::PartitionReply { epoch, body: None };
    let length = batches.iter().map(|batch| field_bytes(batch.len())).sum::<usize>();
    let mut message = BytesMut::with_capacity(reply.encoded_len() + field_bytes(length));
    put_message(&mut message, &reply);
    put_delimiter(&mut message, REPLY_RESENT, length);
    batches.iter().for_each(|batch| put_field(&mut message, RESENT_BATCHES, batch));
    message.freeze()
}

fn put_message(buffer: &mut BytesMut, message: &impl prost::Message) {
    // The buffer grows, so `encode` does not fail.
    let _ = message.encode(buffer);
}

fn put_field(buffer: &mut BytesMut, field: u32, bytes: &[u8]) {
    put_delimiter(buffer, field, bytes.len());
    buffer.put_slice(bytes);
}

/// Writes the start of a length-delimited field. All field numbers here are below 16, so the key is one byte.
fn put_delimiter(buffer: &mut BytesMut, field: u32, length: usize) {
    const LENGTH_DELIMITED: u32 = 2;
    buffer.put_u8((field << 3 | LENGTH_DELIMITED) as u8);
    let mut length = length as u64;
    while length >= 0x80 {
        buffer.put_u8((length as u8) | 0x80);
        length >>= 7;
    }
    buffer.put_u8(length as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::wire::{partition_reply, to_gateway};

    fn event(seq: u64, content: &str) -> wire::Event {
        let message = wire::SendMessage { content: content.into(), ..wire::SendMessage::default() };
        let kind = Some(wire::event::Kind::Message(message));
        wire::Event { conversation: "room".into(), seq, kind, ..wire::Event::default() }
    }

    fn encoded(event: &wire::Event) -> Bytes {
        event.encode_to_vec().into()
    }

    #[test]
    fn an_encoded_batch_decodes_to_the_same_batch() {
        let events = vec![event(1, "a"), event(2, &"long".repeat(20_000)), event(3, "")];
        let outcomes = vec![wire::Outcome { request: 7, body: None }];
        let head = wire::Batch { partition: 3, epoch: 9, number: 300, outcomes, events: Vec::new() };
        let raw: Vec<Bytes> = events.iter().map(encoded).collect();
        let (message, batch) = numbered(&head, &raw);
        let whole = wire::Batch { events, ..head };
        let expected = wire::ToGateway { body: Some(to_gateway::Body::Batch(whole.clone())) };
        assert_eq!(wire::ToGateway::decode(message).expect("decodes"), expected);
        assert_eq!(wire::Batch::decode(batch.clone()).expect("decodes"), whole);

        let reply = wire::PartitionReply::decode(resent(9, &[batch.clone(), batch])).expect("decodes");
        let again = wire::Resent { batches: vec![whole.clone(), whole] };
        let expected = wire::PartitionReply { epoch: 9, body: Some(partition_reply::Body::Resent(again)) };
        assert_eq!(reply, expected);
    }

    #[test]
    fn a_reply_without_kept_batches_is_an_empty_reply() {
        let reply = wire::PartitionReply::decode(resent(2, &[])).expect("decodes");
        let empty = wire::Resent { batches: Vec::new() };
        assert_eq!(
            reply,
            wire::PartitionReply { epoch: 2, body: Some(partition_reply::Body::Resent(empty)) }
        );
    }

    #[test]
    fn ephemeral_events_decode() {
        let typing =
            wire::Ephemeral { conversation: "room".into(), user: "ann".into(), ..Default::default() };
        let message = ephemeral("gw-1", &[typing.encode_to_vec().into()]);
        let batch = wire::EphemeralBatch { gateway: "gw-1".into(), events: vec![typing] };
        let expected = wire::ToGateway { body: Some(to_gateway::Body::Ephemeral(batch)) };
        assert_eq!(wire::ToGateway::decode(message).expect("decodes"), expected);
    }
}
