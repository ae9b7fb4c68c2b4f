//! Telemetry: the log on standard error, and spans that follow a message between services over OTLP.
//!
//! Exported spans have their own target, so they never reach the log. Without an exporter they are disabled at their
//! call site and cost one load.

use crate::settings::Settings;
use anyhow::Context;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, TracerProviderBuilder};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::time::Duration;
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, filter};

/// The target of exported spans.
const TARGET: &str = "carillon::export";
/// A collector that does not reply must not delay the end of the process for longer than this.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Running telemetry. Shut it down last, so that the last spans are exported too.
#[derive(Debug)]
pub struct Telemetry {
    exporter: Option<SdkTracerProvider>,
}

/// Starts the log and, if an endpoint is set, the export of spans. Call it once, inside the runtime.
///
/// # Errors
/// When the filter or the endpoint is invalid, or a log is already running.
pub fn init(settings: &Settings, role: &str) -> anyhow::Result<Telemetry> {
    let exporter = match &settings.otlp_endpoint {
        Some(endpoint) => Some(provider(endpoint, settings.trace_ratio, role)?),
        None => None,
    };
    tracing_subscriber::registry()
        .with(log_layer(settings)?)
        .with(exporter.as_ref().map(export_layer))
        .try_init()
        .context("the log cannot be started")?;
    std::panic::set_hook(Box::new(log_panic));
    if let Some(endpoint) = &settings.otlp_endpoint {
        tracing::info!(endpoint, ratio = settings.trace_ratio, "traces are exported");
    }
    Ok(Telemetry { exporter })
}

impl Telemetry {
    /// Exports the remaining spans, within about three seconds.
    pub async fn shutdown(self) {
        let Some(exporter) = self.exporter else { return };
        // The shutdown blocks, and the exporter's connection needs the runtime meanwhile.
        let done = tokio::task::spawn_blocking(move || exporter.shutdown_with_timeout(FLUSH_TIMEOUT)).await;
        if let Ok(Err(error)) = done {
            tracing::warn!(%error, "some traces were not exported");
        }
    }
}

/// Logs a panic. A formatted message may contain data of a client, so only a fixed message is logged.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    let message = panic.payload().downcast_ref::<&'static str>();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(location, message, backtrace, "panicked");
}

fn provider(endpoint: &str, ratio: f64, role: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(FLUSH_TIMEOUT)
        .build()
        .with_context(|| {
            format!("traces cannot be exported to {endpoint}: set otlp_endpoint to an OTLP gRPC endpoint")
        })?;
    Ok(sampled(ratio, role).with_batch_exporter(exporter).build())
}

fn sampled(ratio: f64, role: &str) -> TracerProviderBuilder {
    let resource = Resource::builder()
        .with_service_name(format!("carillon-{role}"))
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)));
    SdkTracerProvider::builder().with_resource(resource).with_sampler(sampler)
}

fn log_layer<S: Subscriber + for<'a> LookupSpan<'a>>(
    settings: &Settings,
) -> anyhow::Result<Box<dyn Layer<S> + Send + Sync>> {
    let filter = EnvFilter::builder().parse(&settings.log).context("the log's filter cannot be read")?;
    let not_exported =
        filter::filter_fn(|metadata| !is_exported(metadata)).with_max_level_hint(LevelFilter::TRACE);
    let filter = filter.and(not_exported);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if settings.log_json {
        return Ok(lines.json().flatten_event(true).with_filter(filter).boxed());
    }
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    Ok(lines.with_ansi(colours).with_filter(filter).boxed())
}

fn export_layer<S: Subscriber + for<'a> LookupSpan<'a>>(
    provider: &SdkTracerProvider,
) -> impl Layer<S> + use<S> {
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("carillon"))
        .with_context_activation(false)
        .with_tracked_inactivity(false)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_filter(filter::filter_fn(is_exported).with_max_level_hint(LevelFilter::INFO))
}

fn is_exported(metadata: &Metadata<'_>) -> bool {
    metadata.target() == TARGET
}

/// The first span of a message's trace; disabled without an exporter.
pub fn message_span(name: &'static str) -> Span {
    tracing::info_span!(target: TARGET, parent: None, "message", otel.name = name)
}

/// The W3C `traceparent` of a span, for the next service; empty if the span is disabled or not sampled.
pub fn traceparent(span: &Span) -> String {
    if span.is_disabled() {
        return String::new();
    }
    let context = span.context();
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() || !span.is_sampled() {
        return String::new();
    }
    format!("00-{}-{}-01", span.trace_id(), span.span_id())
}

/// A span that continues the trace of a `traceparent`; disabled if that is empty or invalid, or without an exporter.
pub fn continued_span(name: &'static str, traceparent: &str) -> Span {
    let Some(parent) = parse_traceparent(traceparent) else { return Span::none() };
    let span = tracing::info_span!(target: TARGET, parent: None, "continued", otel.name = name);
    if !span.is_disabled() {
        // It fails only for a span that has been entered, and this one is new.
        let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(parent));
    }
    span
}

fn parse_traceparent(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version != "00" || trace.len() != 32 || span.len() != 16 || flags.len() != 2 || parts.next().is_some()
    {
        return None;
    }
    let trace = TraceId::from_hex(trace).ok()?;
    let span = SpanId::from_hex(span).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let parent = SpanContext::new(trace, span, flags, true, TraceState::NONE);
    (parent.is_valid() && parent.is_sampled()).then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Role;
    use opentelemetry_sdk::trace::InMemorySpanExporter;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// Runs one subscriber at a time. `tracing` caches per process whether a callsite is enabled, so a second
    /// subscriber would see the first one's value.
    fn alone() -> MutexGuard<'static, ()> {
        static SUBSCRIBER: Mutex<()> = Mutex::new(());
        SUBSCRIBER.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_exporter(ratio: f64, body: impl FnOnce(&InMemorySpanExporter)) {
        let _alone = alone();
        let exporter = InMemorySpanExporter::default();
        let provider = sampled(ratio, "test").with_simple_exporter(exporter.clone()).build();
        let log = log_layer(&Settings::defaults(Role::Standalone)).expect("a layer");
        let subscriber = tracing_subscriber::registry().with(log).with(export_layer(&provider));
        tracing::subscriber::with_default(subscriber, || body(&exporter));
    }

    #[test]
    fn a_trace_continues_in_the_next_service() {
        with_exporter(1.0, |exporter| {
            let first = message_span("publish");
            let parent = traceparent(&first);
            assert_eq!(parent.len(), 55, "{parent}");
            assert!(parent.starts_with("00-") && parent.ends_with("-01"), "{parent}");
            let second = continued_span("apply", &parent);
            drop(second);
            drop(first);
            let spans = exporter.get_finished_spans().expect("spans");
            assert_eq!(spans.iter().map(|span| span.name.as_ref()).collect::<Vec<_>>(), ["apply", "publish"]);
            assert_eq!(spans[0].span_context.trace_id(), spans[1].span_context.trace_id());
            assert_eq!(spans[0].parent_span_id, spans[1].span_context.span_id());
            assert!(!spans[1].parent_span_id.ne(&SpanId::INVALID), "the first span has no parent");
        });
    }

    #[test]
    fn an_entered_span_is_no_parent_of_another_message() {
        with_exporter(1.0, |exporter| {
            let outer = message_span("outer");
            outer.in_scope(|| drop(message_span("inner")));
            drop(outer);
            let spans = exporter.get_finished_spans().expect("spans");
            assert_ne!(spans[0].span_context.trace_id(), spans[1].span_context.trace_id());
        });
    }

    #[test]
    fn an_unsampled_trace_is_not_continued() {
        with_exporter(0.0, |exporter| {
            let first = message_span("publish");
            let parent = traceparent(&first);
            assert_eq!(parent, "");
            assert!(continued_span("apply", &parent).is_disabled());
            drop(first);
            assert!(exporter.get_finished_spans().expect("spans").is_empty());
        });
    }

    #[test]
    fn a_sampled_parent_is_continued_at_any_ratio() {
        with_exporter(0.0, |exporter| {
            drop(continued_span("apply", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
            let spans = exporter.get_finished_spans().expect("spans");
            assert_eq!(spans[0].span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        });
    }

    #[test]
    fn the_log_is_not_exported_and_without_an_exporter_spans_are_disabled() {
        with_exporter(1.0, |exporter| {
            drop(tracing::info_span!("a span of the log"));
            assert!(exporter.get_finished_spans().expect("spans").is_empty());
        });
        let _alone = alone();
        let log = log_layer(&Settings::defaults(Role::Standalone)).expect("a layer");
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || {
            assert!(!tracing::info_span!("a span of the log").is_disabled());
            let span = message_span("publish");
            assert!(span.is_disabled());
            assert_eq!(traceparent(&span), "");
        });
    }

    #[test]
    fn an_invalid_traceparent_is_not_continued() {
        for bad in [
            "",
            "00",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-zzf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(parse_traceparent(bad).is_none(), "{bad}");
        }
    }
}
