//! The numbers that confirms go by.

use super::fake::{answer_to, broker};
use super::{LIMIT, answer, message};
use crate::error::ErrorKind;
use crate::io::task::{PollWaiter, block_on, run};
use crate::protocol::amqp::{AMQPClass, basic};
use serde_json::json;
use std::time::{Duration, Instant};

/// A publish behind `confirm.select` has the number 1, although the broker has not answered yet.
#[test]
fn a_publish_before_the_answer_to_confirm_select_counts() {
    let (connection, played) = broker(json!({}), |mut fake| {
        fake.welcome(0);
        let mut select = None;
        loop {
            let (number, class) = fake.method().expect("a method");
            match &class {
                AMQPClass::Confirm(_) => select = answer_to(&class),
                AMQPClass::Basic(basic::AMQPMethod::Publish(_)) => break,
                _ => fake.say(number, answer_to(&class).expect("an answer")),
            }
        }
        fake.say(1, select.expect("confirm.select comes before the publish"));
        fake.say(1, answer(1, false, true));
        fake.method().expect("the second publish");
        fake.say(1, answer(2, false, false));
        fake.swallow();
    });
    let channel = run(connection.open_channel()).unwrap();
    let amqp = channel.amqp().expect("it speaks AMQP");
    let mut selecting = amqp.confirm_select();
    let soon = Some(Instant::now() + Duration::from_millis(30));
    assert!(block_on(&mut selecting, &PollWaiter, soon).unwrap().is_none(), "not answered yet");
    run(channel.publish(vec![message("q", "first")])).unwrap();
    let end = Some(Instant::now() + LIMIT);
    block_on(&mut selecting, &PollWaiter, end).unwrap().expect("in time").unwrap();
    let mut second = channel.publish(vec![message("q", "second")]);
    let end = Some(Instant::now() + LIMIT / 3);
    let told = block_on(&mut second, &PollWaiter, end).unwrap().expect("its own answer");
    assert_eq!(told.unwrap_err().kind(), ErrorKind::NotTaken);
    drop(second);
    drop(selecting);
    drop((channel, connection));
    played.join().unwrap();
}
