//! Tests of the shell: an embedded bus, a store that fails in every way a store can, and workers that are killed, run
//! twice, or rely on a lease that they lost. Each test names the mechanism that it guards; without that mechanism
//! the test fails.

mod acquainted_tests;
mod audit_tests;
mod bus;
mod commit_tests;
mod crash_tests;
mod faults;
mod fence_tests;
mod gateway_tests;
mod harness;
mod log_tests;
mod memory;
mod outcome_tests;
mod query_tests;
mod run_tests;
mod seal_tests;
mod suspend_tests;
mod tables;
mod version_tests;
