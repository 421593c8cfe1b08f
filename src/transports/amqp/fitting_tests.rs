use super::*;
use crate::model::{Json, Message};
use crate::protocol::amqp::{AMQPClass, AMQPFrame, basic, parse_frame};
use crate::transport::ConsumeOptions;
use crate::transports::amqp::consumers::Kind;

const ROOMY: u16 = 1024;

fn options() -> ConsumeOptions {
    ConsumeOptions {
        queue: "q".into(),
        consumer_tag: "c".into(),
        no_ack: false,
        arguments: Json::empty_object(),
    }
}

fn registered(options: ConsumeOptions, limit: u32, place: Place) -> Consumer {
    let kind = Kind { place, unused: Unused::Stays, quorum: false };
    let mut one = Consumer::new(1, options, false, (0, limit), kind);
    one.confirmed = true;
    one
}

fn state(one: &Consumer) -> (u16, String) {
    (one.current.window, one.wire_tag())
}

/// With so many unsettled, all of them seen.
fn refit(one: &mut Consumer, limit: u32, unsettled: usize) -> bool {
    one.outstanding = unsettled;
    one.counted = one.counted.min(unsettled);
    let room = if limit == 0 { usize::MAX } else { (limit as usize).saturating_sub(unsettled) };
    one.refit(1, 0, Credit { limit, room }).unwrap().is_some()
}

/// A broker with messages without end, and a program that takes what it is given.
struct Work {
    one: Consumer,
    limit: u32,
    last: u64,
    /// The registrations of what the program has.
    has: Vec<u32>,
    frames: usize,
    back: usize,
    /// The most that was held beyond the limit.
    beyond: usize,
}

impl Work {
    fn begin(limit: u32) -> Self {
        let one = registered(options(), limit, Place::Any);
        let mut work = Self { one, limit, last: 0, has: Vec::new(), frames: 0, back: 0, beyond: 0 };
        work.go_on();
        work
    }

    fn credit(&self) -> Credit {
        let room = match self.limit {
            0 => usize::MAX,
            limit => (limit as usize).saturating_sub(self.has.len()),
        };
        Credit { limit: self.limit, room }
    }

    fn fit(&mut self) {
        let credit = self.credit();
        let wanted = self.one.wants_fitting(credit);
        let frames = self.one.refit(1, 0, credit).unwrap();
        assert_eq!(frames.is_some(), wanted, "it does what it says that it would");
        let Some(Refit { frames, .. }) = frames else { return };
        let mut left = &frames[..];
        while let Ok((rest, frame)) = parse_frame(left) {
            left = rest;
            self.frames += 1;
            let nack =
                |class: &AMQPClass| matches!(class, AMQPClass::Basic(basic::AMQPMethod::Nack(_)));
            self.back += usize::from(matches!(&frame, AMQPFrame::Method(1, class) if nack(class)));
        }
        assert!(!self.one.wants_fitting(self.credit()), "and once");
    }

    /// The broker sends what the window allows, and the program takes what the limit allows.
    fn go_on(&mut self) {
        for _ in 0..100_000 {
            if self.one.counted < self.one.width().min(5000) {
                self.last += 1;
                let registration = self.one.current.number;
                self.one.take_in(self.last, Message::default(), registration);
            } else if self.credit().room > 0 && !self.one.mail.is_empty() {
                let mail = self.one.mail.pop().expect("mail");
                self.one.seen += 1;
                self.has.push(mail.registration);
                self.fit();
            } else {
                let held = self.one.outstanding.saturating_sub(self.limit as usize);
                self.beyond = self.beyond.max(if self.limit == 0 { 0 } else { held });
                return;
            }
        }
        panic!("it never rests");
    }

    fn set(&mut self, limit: u32) {
        self.limit = limit;
        self.fit();
        self.go_on();
    }

    /// Settles the one that the program has had for the longest time but so many.
    fn settle(&mut self, at: usize) {
        let registration = self.has.remove(at);
        self.one.settled(registration, true);
        self.fit();
        self.go_on();
    }
}

#[test]
fn a_raise_is_followed_exactly() {
    let mut work = Work::begin(1);
    for limit in [2, 3, 4, 40, 41, 500] {
        work.set(limit);
        assert_eq!((work.has.len(), work.beyond), (limit as usize, 0));
        assert!(work.one.mail.is_empty());
    }
    assert_eq!(work.one.outstanding, 500);
}

#[test]
fn a_limit_that_goes_up_and_down_leaves_nothing_hidden() {
    let mut work = Work::begin(1);
    for limit in 2..=50 {
        work.set(limit);
    }
    for limit in (1..50).rev() {
        work.set(limit);
    }
    let frames = work.frames;
    while work.has.len() > 1 {
        work.beyond = 0;
        work.settle(0);
    }
    assert_eq!((work.one.outstanding, work.beyond), (1, 0));
    assert_eq!(work.frames, frames, "what was settled came for earlier registrations");
    assert_eq!(work.back, 0);
}

#[test]
fn what_waits_beyond_a_lower_limit_goes_back() {
    let mut work = Work::begin(50);
    // Not taken yet.
    let mut one = registered(options(), 50, Place::Any);
    for tag in 1..=50 {
        one.take_in(tag, Message::default(), 1);
    }
    work.one = one;
    work.has.clear();
    work.limit = 3;
    work.fit();
    assert_eq!(work.back, 47);
    let kept: Vec<u64> = work.one.mail.iter().map(|mail| mail.tag).collect();
    assert_eq!(kept, [1, 2, 3], "the oldest stay");
    work.go_on();
    assert_eq!((work.beyond, work.one.outstanding), (0, 3));
    work.settle(0);
    assert_eq!((work.beyond, work.one.outstanding), (0, 3));
}

#[test]
fn one_waits_beyond_a_lower_limit_where_nobody_knows_whether_the_queue_would_stay() {
    let mut work = Work::begin(4);
    work.one.unused = Unused::Unknown;
    work.set(2);
    work.settle(0);
    assert_eq!((work.one.current.window, work.has.len(), work.one.outstanding), (1, 3, 4));
    work.settle(0);
    assert_eq!((work.has.len(), work.one.outstanding), (2, 3));
    work.settle(0);
    assert_eq!((work.has.len(), work.one.outstanding), (2, 2));
}

#[test]
fn what_waits_of_a_quorum_queue_stays_and_keeps_its_order() {
    let mut one = registered(options(), 8, Place::Any);
    one.quorum = true;
    for tag in 1..6 {
        one.take_in(tag, Message::default(), 1);
    }
    let credit = Credit { limit: 2, room: 2 };
    let Refit { frames, answered } = one.refit(1, 0, credit).unwrap().expect("it is closed");
    assert!(!answered && one.pausing && one.mail.len() == 5 && !one.is_too_late(1, credit));
    let (left, _) = parse_frame(&frames[..]).unwrap();
    assert!(left.is_empty(), "it is cancelled, and nothing else");
    one.mail.clear();
    one.outstanding = 1;
    let credit = Credit { limit: 2, room: 1 };
    assert!(one.refit(1, 0, credit).unwrap().expect("it goes on").answered);
    assert_eq!(one.current, Registration { number: 2, window: 1 });
}

#[test]
fn what_was_on_its_way_when_the_limit_fell_goes_back() {
    let mut one = registered(options(), 8, Place::Any);
    one.take_in(1, Message::default(), 1);
    let credit = Credit { limit: 2, room: 2 };
    assert!(one.refit(1, 0, credit).unwrap().is_some());
    assert_eq!(one.current, Registration { number: 2, window: 1 });
    assert!(!one.is_too_late(1, credit), "there is room");
    one.take_in(2, Message::default(), 1);
    assert!(one.is_too_late(1, credit) && !one.is_too_late(2, credit));
}

#[test]
fn it_narrows_before_the_broker_can_send_more() {
    let mut work = Work::begin(8);
    work.set(4);
    assert_eq!(work.frames, 0, "its window is full: nothing can come");
    for left in (4..8).rev() {
        work.settle(0);
        assert_eq!(work.one.outstanding, left);
    }
    for _ in 0..20 {
        work.settle(0);
        assert!(work.one.outstanding < 8, "{}", work.one.outstanding);
    }
    assert_eq!((work.one.outstanding, work.has.len()), (4, 4));
}

#[test]
fn all_of_the_limit_is_used_again_and_then_it_stays() {
    for (from, to) in [(1, 2), (3, 4), (4, 30), (16, 17), (100, 120)] {
        let mut work = Work::begin(from);
        work.set(to);
        for _ in 0..5 * to {
            work.settle(0);
        }
        let frames = work.frames;
        for _ in 0..1000 {
            work.settle(0);
        }
        assert_eq!(work.frames, frames, "from {from} to {to}");
        assert!(
            work.has.len() + work.limit as usize / 8 >= work.limit as usize,
            "{}",
            work.has.len()
        );
        assert!(work.beyond < to as usize, "{} beyond {to}", work.beyond);
        assert!(work.one.outstanding <= to as usize, "the transition is over");
    }
}

/// What is left to work with beside the tasks that wait for their time is used, however little it is.
#[test]
fn other_tasks_go_on_beside_those_with_an_eta() {
    for (limit, waiting) in [(1, 12), (4, 50), (32, 1000)] {
        let mut work = Work::begin(limit);
        for more in 1..=waiting {
            work.set(limit + more);
        }
        for _ in 0..3 * waiting {
            // One whose time has come is done, and another task; then one with an ETA comes.
            work.set(limit + waiting - 1);
            work.settle(0);
            work.settle(work.has.len() - 1);
            work.set(limit + waiting);
            let working = work.has.len() - waiting as usize;
            assert!(working + limit as usize / 8 >= limit as usize, "{working} of {limit}");
        }
    }
}

/// As Celery does it for each task with an ETA: one more while it waits, one less when it is done.
#[test]
fn tasks_with_an_eta_cost_few_frames() {
    const TASKS: u32 = 200;
    for (limit, most) in [(1, 3.0), (4, 3.0), (16, 3.0), (64, 3.0)] {
        let mut work = Work::begin(limit);
        // All of what comes has an ETA.
        for more in 1..=TASKS {
            work.set(limit + more);
            assert_eq!(work.one.outstanding, (limit + more) as usize);
        }
        let raised = f64::from(u32::try_from(work.frames).unwrap()) / f64::from(TASKS);
        for more in (0..TASKS).rev() {
            work.set(limit + more);
            work.settle(0);
        }
        let all = f64::from(u32::try_from(work.frames).unwrap()) / f64::from(TASKS);
        assert!(raised <= most && all <= most + 0.5, "{raised} and {all} at {limit}");
        assert_eq!((work.back, work.one.outstanding <= limit as usize + 1), (0, true));
    }
}

#[test]
fn without_a_limit_it_grows_with_what_is_unsettled() {
    let mut work = Work::begin(0);
    assert_eq!(
        work.one.current.window, 16_384,
        "this broker stops after 5000 for each registration"
    );
    let mut one = registered(options(), 0, Place::Any);
    assert_eq!(one.current.window, UNLIMITED);
    let credit = Credit { limit: 0, room: usize::MAX };
    // Not only when it is looked at in the moment when half of it is unsettled.
    for unsettled in [1, 127, 129] {
        (one.counted, one.outstanding) = (unsettled, unsettled);
        assert_eq!(one.wants_fitting(credit), unsettled > 128, "{unsettled}");
    }
    assert!(refit(&mut one, 0, 129));
    assert_eq!(one.current.window, 512);
    assert!(refit(&mut one, 4, 2));
    assert_eq!(one.current.window, 2);
    assert!(refit(&mut one, 0, 2));
    assert_eq!(one.current.window, UNLIMITED);
    work.set(100);
    assert!(work.one.pausing && work.one.outstanding == work.has.len());
}

#[test]
fn a_single_active_consumer_is_followed_by_those_who_stand_in_line() {
    let mut one = registered(options(), 4, Place::Line);
    let windows = |one: &Consumer| one.in_line.iter().map(|r| r.window).collect::<Vec<_>>();
    assert_eq!((state(&one), windows(&one)), ((4, "c".into()), vec![ROOMY, WIDEST]));
    assert!(one.is_registered("c") && one.is_registered("c~kombu-3"));
    assert!(refit(&mut one, 5, 4));
    assert_eq!((state(&one), windows(&one)), ((1024, "c~kombu-2".into()), vec![WIDEST; 2]));
    assert!(!refit(&mut one, 1024, 4) && !refit(&mut one, 1, 4), "it does not shrink");
    assert!(refit(&mut one, 0, 600), "no limit, and half of the window is unsettled");
    assert_eq!(state(&one), (WIDEST, "c~kombu-3".into()));
    assert!(!refit(&mut one, 100_000, 4));
    // Those between are passed over.
    let mut one = registered(options(), 4, Place::Line);
    assert!(refit(&mut one, 5000, 4));
    assert_eq!((state(&one), windows(&one)), ((WIDEST, "c~kombu-3".into()), vec![WIDEST]));
    // Nothing to grow to.
    assert!(windows(&registered(options(), 100_000, Place::Line)).is_empty());
}

#[test]
fn consumers_of_streams_are_registered_once_with_room() {
    let mut given = options();
    given.arguments = Json::from_valid(r#"{"x-stream-offset": "first"}"#);
    for (mut one, window) in [
        (registered(given, 1, Place::Any), 1024),
        (registered(options(), 2000, Place::Stream), 2000),
        (registered(options(), 100_000, Place::Stream), u16::MAX),
    ] {
        assert_eq!(one.current.window, window);
        assert!(!refit(&mut one, 50_000, 1) && !refit(&mut one, 1, 1));
    }
    let mut given = options();
    given.no_ack = true;
    let error = registered(given, 1, Place::Stream).register_all().unwrap_err();
    assert!(error.to_string().contains("no_ack must be false"), "{error}");
    let mut unknown = registered(options(), 1, Place::Any);
    let headers = Json::from_valid(r#"{"x-stream-offset": 7}"#);
    unknown.take_in(1, Message { headers, ..Message::default() }, 1);
    unknown.mail.clear();
    assert!(!refit(&mut unknown, 10, 1), "its first message told");
}

#[test]
fn without_acknowledgements_there_is_no_window() {
    let mut given = options();
    given.no_ack = true;
    let mut one = registered(given, 5, Place::Any);
    assert_eq!(one.current.window, 0);
    assert!(!refit(&mut one, 1, 0));
}

#[test]
fn who_may_be_the_last_consumer_of_a_queue_is_not_cancelled_first() {
    let begins_with = |exclusive: bool, unused: Unused, arguments: &'static str| {
        let given = ConsumeOptions { arguments: Json::from_valid(arguments), ..options() };
        let kind = Kind { place: Place::Any, unused, quorum: false };
        let mut one = Consumer::new(1, given, exclusive, (0, 1), kind);
        one.confirmed = true;
        one.take_in(1, Message::default(), 1);
        one.mail.pop();
        let Refit { frames, .. } = one.refit(1, 0, Credit { limit: 2, room: 1 }).unwrap()?;
        match parse_frame(&frames[..]) {
            Ok((_, AMQPFrame::Method(_, AMQPClass::Basic(basic::AMQPMethod::Cancel(_))))) => {
                Some(true)
            }
            _ => Some(false),
        }
    };
    assert_eq!(begins_with(false, Unused::Stays, "{}"), Some(true));
    assert_eq!(begins_with(false, Unused::Goes, "{}"), Some(false));
    assert_eq!(begins_with(false, Unused::Stays, r#"{"x-priority": 1}"#), Some(false));
    assert_eq!(begins_with(true, Unused::Stays, "{}"), Some(true));
    assert_eq!(begins_with(true, Unused::Goes, "{}"), None, "nor if nobody else may consume");
}
