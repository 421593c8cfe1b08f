//! Which message comes next from Redis, against a model: the most urgent of all that are ready; in a
//! queue the oldest of these; among queues in turn. The server is named by `KOMBU_RS_TEST_REDIS`.
#![cfg(feature = "redis")]

use kombu_rs::io::identity;
use kombu_rs::io::task::{run, timeout_at};
use kombu_rs::model::{Json, Message, Name, Queue};
use kombu_rs::transport::{Channel, Connection as _, ConsumeOptions, Url, schemes};
use kombu_rs::virt::Connection;
use proptest::prelude::*;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const QUEUES: usize = 4;
/// Kombu's `priority_steps`: a lower number goes first.
const STEPS: [i64; 3] = [0, 3, 6];

#[derive(Debug, Clone)]
enum Step {
    /// Publish to a queue with one of the priorities.
    Put(usize, usize),
    /// Take one message and acknowledge it.
    Take,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..QUEUES, 0..STEPS.len()).prop_map(|(queue, step)| Step::Put(queue, step)),
        2 => Just(Step::Take),
    ];
    proptest::collection::vec(step, 1..120)
}

/// What is ready, by queue and priority, and how long each queue has been passed over.
#[derive(Debug, Default)]
struct Model {
    ready: [[VecDeque<usize>; STEPS.len()]; QUEUES],
    passed_over: [usize; QUEUES],
}

impl Model {
    /// The most urgent priority that anything has.
    fn urgent(&self) -> Option<usize> {
        (0..STEPS.len()).find(|step| self.ready.iter().any(|queue| !queue[*step].is_empty()))
    }

    /// Notes what was taken, or says what is wrong with it.
    fn taken(&mut self, queue: usize, number: usize) -> Result<(), TestCaseError> {
        let urgent = self.urgent().ok_or_else(|| TestCaseError::fail("nothing was ready"))?;
        prop_assert_eq!(self.ready[queue][urgent].pop_front(), Some(number));
        self.passed_over[queue] = 0;
        for other in (0..QUEUES).filter(|other| *other != queue) {
            if self.ready[other][urgent].is_empty() {
                self.passed_over[other] = 0;
            } else {
                self.passed_over[other] += 1;
            }
            prop_assert!(
                self.passed_over[other] < QUEUES,
                "queue {} waits longer than a round",
                other
            );
        }
        Ok(())
    }
}

/// A connection with keys of its own.
fn connect() -> Connection {
    let server = std::env::var("KOMBU_RS_TEST_REDIS")
        .expect("KOMBU_RS_TEST_REDIS must name a Redis server; `make test` starts one");
    let place = server.strip_prefix("redis://").unwrap_or(&server);
    let place = place.split('/').next().unwrap_or(place);
    let url = Url::parse(&format!("redis://{place}/3")).unwrap();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let prefix = format!("fairness-{}-{number}:", identity::unique());
    let options = json!({"global_keyprefix": prefix, "priority_steps": STEPS});
    let options = options.as_object().unwrap().clone();
    Connection::new(&(Arc::new(move || schemes::open(&url, &options)) as _)).unwrap()
}

fn queue(number: usize) -> Name {
    format!("q{number}").into()
}

fn message(queue: &Name, step: usize, number: usize) -> Message {
    let mut message = Message { body: number.to_string().into(), ..Message::default() };
    message.properties.routing_key = queue.clone();
    message.properties.priority = Some(STEPS[step]);
    message.properties.delivery_tag = format!("m{number}");
    message
}

async fn consume_all(channel: &dyn Channel) -> kombu_rs::error::Result<()> {
    channel.qos(1).await?;
    for number in 0..QUEUES {
        let queue = Queue { name: queue(number), durable: true, ..Queue::default() };
        channel.queue_declare(&queue, false).await?;
        let consumer_tag = queue.name.clone();
        let options = ConsumeOptions {
            queue: queue.name,
            consumer_tag,
            no_ack: false,
            arguments: Json::default(),
        };
        channel.consume(options).await?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_next_message_is_the_most_urgent_then_in_turn_then_the_oldest(steps in steps()) {
        let connection = connect();
        let channel = run(connection.open_channel()).unwrap();
        run(consume_all(&*channel)).unwrap();
        let mut model = Model::default();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Put(place, step) => {
                    let queue = queue(place);
                    run(channel.publish(vec![message(&queue, step, number)])).unwrap();
                    model.ready[place][step].push_back(number);
                }
                Step::Take if model.urgent().is_some() => {
                    let until = Instant::now() + Duration::from_secs(20);
                    let next = async { timeout_at(until, connection.next()).await.expect("in time") };
                    let event = run(next).unwrap();
                    let place = event.consumer_tag.strip_prefix('q').unwrap().parse().unwrap();
                    let body = std::str::from_utf8(&event.delivery.message.body).unwrap();
                    model.taken(place, body.parse().unwrap())?;
                    run(channel.ack(&event.delivery.claim.tag, false)).unwrap();
                }
                Step::Take => {}
            }
        }
        run(connection.close()).unwrap();
    }
}
