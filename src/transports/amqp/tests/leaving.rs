//! A connection that is given up without waiting for the broker.

use super::fake::{broker, of_connection};
use crate::error::ErrorKind;
use crate::io::task::{PollWaiter, block_on, run};
use crate::protocol::amqp::{AMQPClass, connection};
use serde_json::json;
use std::sync::mpsc;
use std::time::{Duration, Instant};

#[test]
fn who_leaves_says_goodbye_and_does_not_wait() {
    let (left, answer) = mpsc::channel();
    let (connection, played) = broker(json!({}), move |mut fake| {
        fake.welcome(0);
        let (_, class) = fake.method().expect("goodbye");
        assert!(matches!(class, AMQPClass::Connection(connection::AMQPMethod::Close(_))));
        answer.recv().unwrap(); // it has left by then
        fake.say(0, of_connection(connection::AMQPMethod::CloseOk(connection::CloseOk {})));
        assert_eq!(fake.frame(), None, "closed, and nothing else was said");
    });
    run(connection.connect()).unwrap();
    connection.amqp().expect("it speaks AMQP").leave();
    assert!(!connection.is_connected());
    left.send(()).unwrap();
    played.join().unwrap();
}

/// Also for who waits there meanwhile, on another thread.
#[test]
fn a_broker_that_says_nothing_is_left_all_the_same() {
    let (connection, played) = broker(json!({}), |mut fake| {
        fake.welcome(0);
        fake.drain_into(&mut Vec::new());
    });
    run(connection.connect()).unwrap();
    let mut waiting = connection.next();
    let soon = Some(Instant::now() + Duration::from_millis(30));
    assert!(block_on(&mut waiting, &PollWaiter, soon).unwrap().is_none(), "nothing comes");
    connection.amqp().expect("it speaks AMQP").leave();
    assert_eq!(run(waiting).unwrap_err().kind(), ErrorKind::Connection);
    played.join().unwrap();
}
