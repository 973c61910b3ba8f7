//! Asking one party again and again: often enough that its silence is noticed soon, seldom enough to bother nobody.

use std::time::Duration;

/// Time since any fixed moment.
pub type Time = Duration;

/// How a party is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// How long after an answer it is asked again.
    pub(crate) answered: Duration,
    /// How long after it was given up it is asked again.
    pub(crate) silent: Duration,
    /// How long each question of a round waits for its answer. After the last, it is given up.
    pub(crate) waits: &'static [Duration],
}

/// Whether one party answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watch {
    pace: Pace,
    next: Time,
    /// Questions of this round that nobody has answered.
    open: usize,
    /// What the last round that came to an end found.
    answers: Option<bool>,
}

impl Watch {
    pub(crate) fn new(pace: Pace, first: Time) -> Self {
        Self { pace, next: first, open: 0, answers: None }
    }

    /// Whether a question is due now. It is taken as asked.
    pub(crate) fn due(&mut self, now: Time) -> bool {
        if now < self.next {
            return false;
        }
        if self.open >= self.pace.waits.len() {
            self.answers = Some(false);
            self.open = 0;
            self.next = now + self.pace.silent;
            return false;
        }
        self.next = now + self.pace.waits[self.open];
        self.open += 1;
        true
    }

    /// There was an answer.
    pub(crate) fn heard(&mut self, now: Time) {
        self.answers = Some(true);
        self.open = 0;
        self.next = now + self.pace.answered;
    }

    /// Asks soon, whatever was found so far; that stays until something else is found.
    pub(crate) fn hurry(&mut self, at: Time) {
        self.open = 0;
        self.next = self.next.min(at);
    }

    /// When something is due next.
    pub(crate) fn next(&self) -> Time {
        self.next
    }

    /// Whether the party answers; `None` where nobody knows yet.
    pub(crate) fn answers(&self) -> Option<bool> {
        self.answers
    }

    /// Questions of this round that nobody has answered.
    pub(crate) fn open(&self) -> usize {
        self.open
    }
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Gateways and other nodes: one question in three seconds, and three within three more before it is told that they are
/// silent.
pub(crate) const OFTEN: Pace = Pace { answered: ms(3000), silent: ms(2000), waits: &[ms(1000), ms(1000), ms(1000)] };
/// DHCP servers and routers: a question a minute; silent ones four times as often. A server may look for other holders
/// of an address for some seconds before it offers it (RFC 2131 section 3.1).
pub(crate) const SELDOM: Pace =
    Pace { answered: ms(60_000), silent: ms(15_000), waits: &[ms(2000), ms(3000), ms(4000)] };

/// The same where silence is no fault: once a minute, whatever is heard.
pub(crate) const LISTEN: Pace = Pace { silent: ms(60_000), ..SELDOM };

/// Gateways from the node's own network: once a minute, whatever is heard; three questions a second apart.
pub(crate) const APART: Pace = Pace { answered: ms(60_000), silent: ms(60_000), waits: OFTEN.waits };

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets a watch run for a time, and says when it asked.
    fn run(w: &mut Watch, from: u64, to: u64, answers: bool) -> Vec<u64> {
        let mut asked = vec![];
        for t in from..to {
            if w.due(ms(t)) {
                asked.push(t);
                if answers {
                    w.heard(ms(t));
                }
            }
        }
        asked
    }

    #[test]
    fn silence_is_noticed_within_seven_seconds_and_its_end_within_two() {
        let mut w = Watch::new(OFTEN, ms(10));
        assert_eq!(run(&mut w, 0, 7000, true), [10, 3010, 6010]);
        assert_eq!(run(&mut w, 7000, 12_010, false), [9010, 10_010, 11_010]);
        assert_eq!(w.answers(), Some(true), "not before the last question's time is over");
        run(&mut w, 12_010, 12_011, false);
        assert_eq!((w.answers(), w.next()), (Some(false), ms(14_010)));
        assert_eq!(run(&mut w, 12_011, 17_000, true), [14_010]);
        assert_eq!(w.answers(), Some(true));
    }

    #[test]
    fn one_question_without_an_answer_tells_nothing() {
        let mut w = Watch::new(OFTEN, ms(0));
        assert!(w.due(ms(0)) && w.due(ms(1000)));
        w.heard(ms(1100));
        assert_eq!((w.answers(), w.open()), (Some(true), 0));
    }

    #[test]
    fn who_is_in_a_hurry_asks_at_once() {
        let mut w = Watch::new(SELDOM, ms(0));
        run(&mut w, 0, 10, true);
        w.hurry(ms(500));
        assert_eq!((w.next(), w.answers()), (ms(500), Some(true)));
    }
}
