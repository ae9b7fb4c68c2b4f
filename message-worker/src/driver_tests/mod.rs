//! The shell under fire: an embedded bus, a store that fails in all the ways a store can, workers that are killed,
//! doubled and deceived. Each test says which mechanism it guards; taking that out makes it fail.

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
