//! Metrics: the latency of each stage and the process itself, and everything registered rendered for Prometheus.

use prometheus::{Histogram, HistogramVec, IntGaugeVec, Opts, histogram_opts};
use std::sync::LazyLock;
use std::time::Duration;

/// A stage on a message's path. Each has its own latency histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From a command's arrival at the gateway to the log's ack.
    GatewayPublish,
    /// From the time of a log entry to a worker's reading it.
    LogWait,
    /// Applying a group of commands.
    Apply,
    /// Writing a group's event rows.
    Commit,
    /// From the commit to handing the batch over to the bus.
    Fanout,
    /// From a batch's arrival at a gateway to the members' queues.
    Deliver,
    /// From a message's arrival at the gateway to its ack to the client.
    SendToAck,
}

impl Stage {
    /// All stages, in the order of a message's path.
    pub const ALL: [Stage; 7] = [
        Self::GatewayPublish,
        Self::LogWait,
        Self::Apply,
        Self::Commit,
        Self::Fanout,
        Self::Deliver,
        Self::SendToAck,
    ];

    /// The value of the label `stage`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GatewayPublish => "gateway_publish",
            Self::LogWait => "log_wait",
            Self::Apply => "apply",
            Self::Commit => "commit",
            Self::Fanout => "fanout",
            Self::Deliver => "deliver",
            Self::SendToAck => "send_to_ack",
        }
    }
}

/// Upper bounds of latency buckets in seconds: from 50 µs, a message's time in one process, to 10 s, when clients have
/// given up.
pub const LATENCY_BUCKETS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// The histograms are looked up once, so that recording is an array index and a few atomic additions.
static STAGES: LazyLock<[Histogram; Stage::ALL.len()]> = LazyLock::new(|| {
    let histograms =
        latencies("carillon_stage_seconds", "seconds that messages spend in each stage", &["stage"]);
    Stage::ALL.map(|stage| histograms.with_label_values(&[stage.as_str()]))
});

static BUILD_INFO: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let opts = Opts::new("carillon_build_info", "always 1; the label names the version that runs");
    let gauge = IntGaugeVec::new(opts, &["version"]).expect("the name and the label are valid");
    prometheus::register(Box::new(gauge.clone())).expect("the name is registered once");
    gauge.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    gauge
});

/// Creates and registers latency histograms, from 50 µs to 10 s, for the `LazyLock` of a metric.
///
/// # Panics
/// When the name or a label is invalid, or the name is already registered.
pub fn latencies(name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    let opts = histogram_opts!(name, help, LATENCY_BUCKETS.to_vec());
    let histograms = HistogramVec::new(opts, labels).expect("the name and the labels are valid");
    prometheus::register(Box::new(histograms.clone())).expect("the name is registered once");
    histograms
}

/// Records how long a message spent in a stage.
pub fn observe(stage: Stage, elapsed: Duration) {
    STAGES[stage as usize].observe(elapsed.as_secs_f64());
}

/// All registered metrics, and the process's memory, processor time, files and start, in the text format of Prometheus.
pub fn render() -> String {
    LazyLock::force(&STAGES);
    LazyLock::force(&BUILD_INFO);
    let families = prometheus::gather();
    prometheus::TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| {
        tracing::error!(%error, "metrics cannot be rendered");
        String::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_in_the_order_of_their_discriminants() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index);
        }
    }

    #[test]
    fn observed_latencies_are_rendered() {
        observe(Stage::Commit, Duration::from_micros(700));
        observe(Stage::Commit, Duration::from_secs(11));
        let text = render();
        for line in [
            "carillon_stage_seconds_bucket{stage=\"commit\",le=\"0.0005\"} 0",
            "carillon_stage_seconds_bucket{stage=\"commit\",le=\"0.001\"} 1",
            "carillon_stage_seconds_bucket{stage=\"commit\",le=\"+Inf\"} 2",
            "carillon_stage_seconds_count{stage=\"send_to_ack\"} 0",
            concat!("carillon_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        for name in [
            "process_resident_memory_bytes",
            "process_cpu_seconds_total",
            "process_open_fds",
            "process_start_time_seconds",
        ] {
            let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
            assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{name} {value}");
        }
    }
}
