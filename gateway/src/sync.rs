//! The lock of what many tasks change together. Tests that try every order of steps, by shuttle, switch between tasks
//! wherever it is taken; everybody else gets `parking_lot`'s.

pub use parking_lot::MutexGuard;

#[cfg(not(test))]
pub use parking_lot::Mutex;

#[cfg(test)]
pub use stepping::{Mutex, stepped};

#[cfg(test)]
mod stepping {
    use super::MutexGuard;
    use std::cell::Cell;

    thread_local! {
        static STEPPED: Cell<bool> = const { Cell::new(false) };
    }

    struct Stepping;

    impl Drop for Stepping {
        fn drop(&mut self) {
            STEPPED.set(false);
        }
    }

    /// Runs `test` with a switch of tasks wherever a lock is taken. Shuttle's tasks share one thread.
    pub fn stepped<T>(test: impl FnOnce() -> T) -> T {
        STEPPED.set(true);
        let _stepping = Stepping;
        test()
    }

    /// As `parking_lot`'s, and within [`stepped`] a point where another task may go on.
    #[derive(Debug, Default)]
    pub struct Mutex<T>(parking_lot::Mutex<T>);

    impl<T> Mutex<T> {
        /// A lock around a value.
        pub fn new(value: T) -> Mutex<T> {
            Mutex(parking_lot::Mutex::new(value))
        }

        /// Takes the lock.
        pub fn lock(&self) -> MutexGuard<'_, T> {
            while STEPPED.get() {
                shuttle::thread::yield_now();
                if let Some(guard) = self.0.try_lock() {
                    return guard;
                }
            }
            self.0.lock()
        }
    }
}
