//! The stored events at the end of a run, as records of the history. They are read directly from the database, not
//! through any service.

use anyhow::Context;
use carillon_history::{Record, What};
use carillon_message_worker::store::scylla::ScyllaStore;
use carillon_message_worker::store::{EventRow, Store};
use carillon_proto::id::{ConversationId, MessageId, given_client_id};
use carillon_proto::wire::{self, event::Kind};
use carillon_runtime::database::DatabaseConfig;
use prost::Message as _;
use std::sync::Arc;

/// Rows in one read.
const PAGE_ROWS: usize = 500;

/// All stored events of these conversations, with `at_us` as their time in the history.
///
/// # Errors
/// If the database or a row cannot be read.
pub async fn stored(
    config: &DatabaseConfig,
    conversations: &[String],
    at_us: u64,
) -> anyhow::Result<Vec<Record>> {
    let store: Arc<dyn Store> = ScyllaStore::connect(config).await.context("the database")?;
    let mut records = Vec::new();
    for conversation in conversations {
        let id = ConversationId::parse(conversation)
            .map_err(|error| anyhow::anyhow!("{conversation}: {error:?}"))?;
        let mut after_seq = 0;
        loop {
            let rows = store.events_after(&id, after_seq, PAGE_ROWS).await?;
            let Some(last) = rows.last() else { break };
            after_seq = last.seq;
            for row in &rows {
                records.push(Record { at_us, what: record(conversation, row)? });
            }
        }
    }
    Ok(records)
}

fn record(conversation: &str, row: &EventRow) -> anyhow::Result<What> {
    let event =
        wire::Event::decode(row.blob.clone()).with_context(|| format!("{conversation} seq {}", row.seq))?;
    let content = match event.kind {
        Some(Kind::Message(message)) => message.content,
        other => format!("{other:?}"),
    };
    Ok(What::Stored {
        conversation: conversation.into(),
        seq: row.seq,
        id: MessageId::from_slice(&event.id).to_string(),
        sender: event.actor,
        client_id: given_client_id(&event.client_id).unwrap_or_default().into(),
        content,
    })
}
