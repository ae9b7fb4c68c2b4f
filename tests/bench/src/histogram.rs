//! A histogram of latencies in fixed memory. Every power of two has 64 steps, so a figure is at most 1.6 % too low.

const STEPS: usize = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// The number of values in each step.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; STEPS * (64 - STEP_BITS as usize + 1)], total: 0 }
    }
}

impl Histogram {
    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.counts[index(value)] += 1;
        self.total += 1;
    }

    /// The value that `share` of all values do not exceed, or 0 if there are no values.
    pub fn quantile(&self, share: f64) -> f64 {
        let rank = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        found.map_or(0.0, |index| lowest(index) as f64)
    }
}

/// The step of a value. Values below 64 have one step each. For a greater value, the 6 bits after its highest bit
/// select the step.
fn index(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(STEP_BITS + 1);
    (shift as usize) * STEPS + (value >> shift) as usize
}

fn lowest(index: usize) -> u64 {
    let shift = (index / STEPS).saturating_sub(1);
    ((index - shift * STEPS) as u64) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_close() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0.0);
        for value in 1..=100_000 {
            histogram.record(value);
        }
        for (share, exact) in [(0.5, 50_000.0), (0.99, 99_000.0), (1.0, 100_000.0), (0.0001, 10.0)] {
            let found = histogram.quantile(share);
            assert!(found <= exact && found >= exact * 0.984, "{share}: {found}");
        }
    }

    #[test]
    fn every_value_has_a_step_that_begins_at_or_below_it() {
        for value in (0..2_000).chain([u64::MAX, u64::MAX / 2, 1 << 40, (1 << 40) - 1]) {
            let low = lowest(index(value));
            assert!(low <= value && value - low <= value / 64, "{value}: {low}");
        }
    }
}
