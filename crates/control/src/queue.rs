//! A work queue as controllers need it: a key waits once however often it is asked for, is never worked on twice at the
//! same time, and comes back after a failure with growing delays.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// What a handler wants after it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing until something changes.
    Wait,
    /// To run again after this long.
    Again(Duration),
    /// To run again after a delay that grows with every failure in a row.
    Failed,
}

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct State<K> {
    waiting: VecDeque<K>,
    queued: HashSet<K>,
    running: HashSet<K>,
    /// Asked for while it ran: to run once more.
    again: HashSet<K>,
    failures: HashMap<K, u32>,
}

/// The queue. Clones share it.
#[derive(Debug)]
pub struct Queue<K> {
    state: Arc<Mutex<State<K>>>,
    notify: Arc<Notify>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), notify: self.notify.clone() }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
            waiting: VecDeque::new(),
            queued: HashSet::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            failures: HashMap::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), notify: Arc::default() }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Queue<K> {
    /// Asks for a key to be worked on.
    pub fn push(&self, key: K) {
        let mut s = self.lock();
        if s.running.contains(&key) {
            s.again.insert(key);
        } else if s.queued.insert(key.clone()) {
            s.waiting.push_back(key);
            self.notify.notify_one();
        }
    }

    /// Asks for a key after a while.
    pub fn push_after(&self, key: K, delay: Duration) {
        let queue = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            queue.push(key);
        });
    }

    /// Works on keys, at most `workers` at a time, for as long as the returned future is polled.
    pub async fn run<F, Fut>(&self, workers: usize, handle: F)
    where
        F: Fn(K) -> Fut,
        Fut: Future<Output = Next>,
    {
        let one = || async {
            loop {
                let key = self.pop().await;
                let next = handle(key.clone()).await;
                self.done(key, next);
            }
        };
        futures::future::join_all((0..workers).map(|_| one())).await;
    }

    async fn pop(&self) -> K {
        loop {
            {
                let mut s = self.lock();
                if let Some(key) = s.waiting.pop_front() {
                    s.queued.remove(&key);
                    s.running.insert(key.clone());
                    if !s.waiting.is_empty() {
                        self.notify.notify_one();
                    }
                    return key;
                }
            }
            self.notify.notified().await;
        }
    }

    fn done(&self, key: K, next: Next) {
        let mut s = self.lock();
        s.running.remove(&key);
        let again = s.again.remove(&key);
        let delay = if next == Next::Failed {
            let n = s.failures.entry(key.clone()).or_insert(0);
            *n += 1;
            Some(FIRST_DELAY.saturating_mul(1 << (*n - 1).min(12)).min(LONGEST_DELAY))
        } else {
            s.failures.remove(&key);
            match next {
                Next::Again(d) => Some(d),
                _ => None,
            }
        };
        drop(s);
        if again {
            self.push(key);
        } else if let Some(delay) = delay {
            self.push_after(key, delay);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn a_key_runs_once_at_a_time_and_once_more_when_asked_meanwhile() {
        let queue = Queue::<u8>::default();
        let (running, most, runs) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
        for _ in 0..10 {
            queue.push(1);
        }
        let work = queue.run(4, async |key| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            if runs.fetch_add(1, Ordering::SeqCst) == 0 {
                queue.push(key);
                queue.push(key);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            running.fetch_sub(1, Ordering::SeqCst);
            Next::Wait
        });
        let _ = tokio::time::timeout(Duration::from_millis(100), work).await;
        assert_eq!((runs.load(Ordering::SeqCst), most.load(Ordering::SeqCst)), (2, 1));
    }

    #[tokio::test]
    async fn failures_come_back() {
        let queue = Queue::<u8>::default();
        let runs = AtomicU32::new(0);
        queue.push(1);
        let work =
            queue.run(1, async |_| if runs.fetch_add(1, Ordering::SeqCst) < 2 { Next::Failed } else { Next::Wait });
        let _ = tokio::time::timeout(Duration::from_millis(400), work).await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }
}
