//! The lock for state that many tasks change together. It is `parking_lot`'s. In tests with shuttle, which tries orders
//! of steps, taking the lock may switch to another task.

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

    /// Runs `test` with a possible switch of tasks at every lock. All of shuttle's tasks run on one thread.
    pub fn stepped<T>(test: impl FnOnce() -> T) -> T {
        STEPPED.set(true);
        let _stepping = Stepping;
        test()
    }

    /// Like `parking_lot`'s mutex. Within [`stepped`], taking it may switch to another task.
    #[derive(Debug, Default)]
    pub struct Mutex<T>(parking_lot::Mutex<T>);

    impl<T> Mutex<T> {
        /// A mutex around a value.
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
