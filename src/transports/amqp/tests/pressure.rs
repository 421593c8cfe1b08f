//! A broker that sends faster than a consumer without acknowledgements takes.

use super::fake::broker;
use super::*;
use crate::model::Queue;
use crate::protocol::amqp::queue;
use crate::transports::amqp::mailbox::FULL;

const COUNT: u64 = 1400;
const SIZE: usize = 60_000;

fn body(number: u64) -> String {
    format!("{number:0>SIZE$}")
}

/// What is beyond the bound stays with the broker; neither heartbeats nor answers do.
#[test]
fn what_nobody_takes_is_not_read() {
    let (stuck, told) = mpsc::channel();
    let (connection, played) = broker(json!({}), move |mut fake| {
        fake.welcome(1);
        fake.serve_then(|fake| {
            let mut numbers = 1..=COUNT;
            let mut sent = 0;
            let left = loop {
                let Some(number) = numbers.next() else { break Vec::new() };
                let left = fake.push(delivery(1, "c", number, &body(number)));
                sent += SIZE - left.len().min(SIZE);
                if !left.is_empty() {
                    break left;
                }
            };
            // For longer than a link may be silent.
            let beats = fake.read(encode::HEARTBEAT.len() * 5);
            assert_eq!(beats, encode::HEARTBEAT.repeat(5));
            stuck.send(sent).unwrap();
            fake.method().expect("a declaration");
            fake.write(&left);
            for number in numbers.by_ref().take(10) {
                fake.write(&delivery(1, "c", number, &body(number)));
            }
            let ok = queue::DeclareOk { queue: "q".into(), message_count: 7, consumer_count: 1 };
            fake.say(2, AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)));
            for number in numbers {
                fake.write(&delivery(1, "c", number, &body(number)));
            }
            fake.swallow();
        });
    });
    let (channel, other) =
        run(async { Ok((connection.open_channel().await?, connection.open_channel().await?)) })
            .unwrap();
    let mut options = consumer("c");
    options.no_ack = true;
    run(channel.consume(options)).unwrap();
    let sent = told.recv_timeout(LIMIT).expect("the broker is stuck");
    // The rest is in the kernel's buffers.
    assert!(sent < FULL + (24 << 20), "{sent} bytes were taken");
    let asked = Queue { name: "q".into(), ..Queue::default() };
    assert_eq!(run(other.queue_declare(&asked, true)).unwrap().messages, 7);
    for number in 1..=COUNT {
        let event = run(connection.next()).unwrap();
        assert!(event.delivery.message.body == body(number), "number {number}");
    }
    drop((channel, other, connection));
    played.join().unwrap();
}
