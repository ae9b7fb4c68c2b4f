//! What clients send and receive, against a real standalone process that needs no other part.

mod clock;
mod kill;
mod native;
mod refusals;
mod renewal;
mod rest;
