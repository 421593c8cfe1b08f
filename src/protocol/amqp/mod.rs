//! AMQP 0-9-1, the protocol of RabbitMQ. Methods are written and read by the crate `amq-protocol`;
//! frames, messages and tables by hand, because they come with every message and because nothing
//! that a peer sends may make this recurse without end.
//!
//! See <https://www.rabbitmq.com/amqp-0-9-1-reference> and its errata.

mod confirms;
mod content;
mod decoder;
pub mod encode;
mod handshake;
mod table;
mod time;
mod wire;

pub use amq_protocol::frame::{AMQPFrame, parse_frame};
pub use amq_protocol::protocol::{
    AMQPClass, basic, channel, confirm, connection, exchange, queue, tx,
};
pub use confirms::{Confirms, Known};
pub use decoder::{AmqpDecoder, Content, Event, Head, Start};
pub use handshake::{Handshake, Login, Step, Terms, Wishes};

/// The smaller of two limits, where 0 is none.
fn smaller(a: u32, b: u32) -> u32 {
    match (a, b) {
        (0, limit) | (limit, 0) => limit,
        (a, b) => a.min(b),
    }
}
