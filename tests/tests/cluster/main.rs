//! Carillon as it is deployed, against nats-server and a CQL database: several gateways, workers that stop or die,
//! audits, and settings that do not fit.

mod audit;
mod conversation;
mod invitations;
mod misfits;
mod polling;
