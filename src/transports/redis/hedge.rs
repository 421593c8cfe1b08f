//! Connecting when nobody answers: more attempts beside the first one.
//!
//! What was sent while a path is down comes again only after growing pauses, or never, when
//! something between has taken it; a new attempt gets through at once when the path is back.

use crate::error::Result;
use crate::io::task::watch_until;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

/// After so long without an answer another attempt is made.
const ANOTHER_AFTER: Duration = Duration::from_secs(1);
/// At most so many at a time: the first, whose server may just be slow, and the latest.
const MOST: usize = 3;

/// The outcome of the first attempt to end. `attempt` begins one.
///
/// # Errors
/// That attempt's.
pub(super) async fn hedged<T, F>(mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>> + Send,
{
    let mut attempts: Vec<Pin<Box<F>>> = vec![Box::pin(attempt())];
    let mut another = Instant::now() + ANOTHER_AFTER;
    poll_fn(|cx| {
        if Instant::now() >= another {
            another = Instant::now() + ANOTHER_AFTER;
            if attempts.len() == MOST {
                attempts.remove(1);
            }
            attempts.push(Box::pin(attempt()));
        }
        for attempt in &mut attempts {
            if let Poll::Ready(done) = attempt.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
        }
        watch_until(another);
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::io::task::{run, sleep};

    #[test]
    fn a_later_attempt_may_win() {
        let mut made = 0;
        let won = run(hedged(|| {
            made += 1;
            let number = made;
            async move {
                // The first never gets an answer.
                sleep(Duration::from_secs(if number == 1 { 3600 } else { 0 })).await;
                Ok(number)
            }
        }));
        assert_eq!(won.unwrap(), 2);
    }

    #[test]
    fn an_error_is_an_answer_too() {
        let refused = || async { Err::<(), _>(Error::connection("refused")) };
        assert!(run(hedged(refused)).unwrap_err().to_string().contains("refused"));
    }
}
