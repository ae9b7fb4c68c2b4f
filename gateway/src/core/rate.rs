//! Token buckets: the limit may be used in one burst, and is refilled evenly over a minute.

const MINUTE_MS: f64 = 60_000.0;

/// The allowance of one user or address for one kind of action.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    /// Actions used and not yet refilled.
    used: f32,
    at_ms: u64,
}

impl Bucket {
    /// Takes one action. A limit of 0 never refuses.
    ///
    /// # Errors
    /// The milliseconds after which one action is available.
    pub fn try_acquire(&mut self, now_ms: u64, per_minute: u32) -> Result<(), u64> {
        if per_minute == 0 {
            return Ok(());
        }
        let refilled = now_ms.saturating_sub(self.at_ms) as f64 * f64::from(per_minute) / MINUTE_MS;
        let used = (f64::from(self.used) - refilled).max(0.0);
        self.at_ms = now_ms.max(self.at_ms);
        if used + 1.0 <= f64::from(per_minute) + 1e-3 {
            self.used = (used + 1.0) as f32;
            return Ok(());
        }
        self.used = used as f32;
        let missing = used + 1.0 - f64::from(per_minute);
        Err(((missing * MINUTE_MS / f64::from(per_minute) - 1e-3).ceil() as u64).max(1))
    }

    /// Whether the bucket is as full as a new one, so that it may be dropped.
    pub fn is_full(&self, now_ms: u64, per_minute: u32) -> bool {
        now_ms.saturating_sub(self.at_ms) as f64 * f64::from(per_minute) / MINUTE_MS >= f64::from(self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_burst_is_the_limit_and_refills_evenly() {
        let mut bucket = Bucket::default();
        for _ in 0..60 {
            assert_eq!(bucket.try_acquire(1_000_000, 60), Ok(()));
        }
        assert_eq!(bucket.try_acquire(1_000_000, 60), Err(1_000));
        assert_eq!(bucket.try_acquire(1_000_400, 60), Err(600));
        assert_eq!(bucket.try_acquire(1_001_000, 60), Ok(()));
        assert!(bucket.try_acquire(1_001_000, 60).is_err());
        assert!(!bucket.is_full(1_030_000, 60));
        assert!(bucket.is_full(1_061_100, 60));
    }

    #[test]
    fn a_limit_of_zero_never_refuses() {
        let mut bucket = Bucket::default();
        assert!((0..10_000).all(|_| bucket.try_acquire(5, 0).is_ok()));
    }
}
