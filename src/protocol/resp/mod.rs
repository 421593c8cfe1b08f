//! RESP2 and RESP3, the protocol of Redis and its relatives.
//!
//! See <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

mod command;
mod parser;
mod value;

pub use command::{Command, Pipeline};
pub use parser::{Limits, Parser};
pub use value::{ServerError, Value};
