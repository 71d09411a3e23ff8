//! Whether a replica is used. Without I/O: the time and what was found are parameters.

use std::time::{Duration, Instant};

/// How long a replica is left out after it has failed. Each further failure doubles this.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest time for which a replica is left out before it is asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A replica that was used for so long is taken to be well: the next failure is a first one.
const WELL_AFTER: Duration = Duration::from_secs(60);
/// How long the result of a check counts. Replicas are checked every second, so that an older one
/// means that nobody checks.
const CHECK_COUNTS_FOR: Duration = Duration::from_secs(30);
/// How many checks, one after the other, must find a replica fit after it was too far behind. One
/// whose lag is about the limit would be left out and used again without end.
const FIT_CHECKS_TO_RETURN: u32 = 10;

/// What a check of a replica has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It follows the primary closely.
    Fit,
    /// It isn't known yet whether it does.
    Waiting,
    /// It may be becoming the primary, so that nothing new can be known: what was found before
    /// holds.
    Unchanged,
    /// It is too far behind.
    Behind,
    /// It is the primary itself.
    IsPrimary,
    /// It doesn't follow the primary as that was when it told of itself last.
    Promoted { primary_told: Instant },
    /// It can't be used, for this reason.
    Unfit(&'static str),
}

/// Why a replica that was promoted can't be used.
pub(super) const PROMOTED: &str = "it doesn't follow the primary, but was promoted or follows one that was; \
     make it a standby of the primary again";

/// What the operator must be told about a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It is used for the first time.
    Used,
    /// It is used again.
    Back,
    /// It is left out, for this reason.
    LeftOut(String),
    /// It is the primary.
    IsPrimary,
}

/// What the operator was told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Used,
    LeftOut,
    Unfit(&'static str),
    IsPrimary,
}

/// Whether a replica is used, and when it is looked at again.
#[derive(Debug)]
pub(super) struct Standing {
    /// Whether the latest check that could tell has found it fit, and not too long ago.
    is_fit: bool,
    /// How many checks must still find it fit, one after the other, before it counts as fit.
    fit_checks_to_go: u32,
    /// When it was last checked without failing.
    checked: Option<Instant>,
    /// While it is left out after a failure: until when it isn't asked.
    out_until: Option<Instant>,
    /// How long it was left out the last time; zero if it has not failed lately.
    pause: Duration,
    /// Since when it is used.
    used_since: Option<Instant>,
    /// Since when it is known to be promoted.
    promoted_since: Option<Instant>,
    told: Told,
}

impl Standing {
    /// Of a replica that was not checked yet, which isn't used.
    pub(super) fn new() -> Standing {
        Standing {
            is_fit: false,
            fit_checks_to_go: 0,
            checked: None,
            out_until: None,
            pause: Duration::ZERO,
            used_since: None,
            promoted_since: None,
            told: Told::Nothing,
        }
    }

    /// Whether files are read from it.
    pub(super) fn is_used(&self, now: Instant) -> bool {
        self.is_fit && self.out_until.is_none() && self.is_checked(now)
    }

    /// Whether it was checked lately without failing.
    fn is_checked(&self, now: Instant) -> bool {
        let is_recent = |at: Instant| now.duration_since(at) < CHECK_COUNTS_FOR;
        self.checked.is_some_and(is_recent)
    }

    /// Whether it may be checked.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.out_until.is_none_or(|until| now >= until)
    }

    /// Notes that it has failed. Returns what the operator must be told.
    pub(super) fn failed(&mut self, reason: &str, now: Instant) -> Option<News> {
        if !self.is_due(now) {
            // Another thread has met the same failure.
            return None;
        }
        let was_well = |since: Instant| now.duration_since(since) >= WELL_AFTER;
        if self.used_since.take().is_some_and(was_well) {
            self.pause = Duration::ZERO;
        }
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.out_until = Some(now + self.pause);
        self.left_out(reason)
    }

    /// Notes that what was found before counts no more: it must show anew that it has caught up.
    pub(super) fn must_catch_up(&mut self) {
        self.is_fit = false;
        self.used_since = None;
    }

    /// Notes what a check has found. Returns what the operator must be told.
    pub(super) fn judged(&mut self, verdict: Verdict, now: Instant) -> Option<News> {
        if !self.is_due(now) {
            // It has failed since the check began.
            return None;
        }
        if !self.is_checked(now) {
            // It was away for long, and may have fallen behind.
            self.must_catch_up();
        }
        self.out_until = None;
        self.checked = Some(now);
        let verdict = self.resolved(verdict, now);
        self.note_fitness(verdict);
        if self.is_fit {
            self.used_since.get_or_insert(now);
        }
        match verdict {
            Verdict::Behind => self.left_out("it is too far behind the primary"),
            Verdict::Unfit(reason) if self.told != Told::Unfit(reason) => {
                self.told = Told::Unfit(reason);
                Some(News::LeftOut(reason.into()))
            }
            Verdict::IsPrimary if self.told != Told::IsPrimary => {
                self.told = Told::IsPrimary;
                Some(News::IsPrimary)
            }
            _ if self.is_fit => self.used(),
            _ => None,
        }
    }

    /// Notes what the verdict says of its being fit.
    fn note_fitness(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Unchanged => {}
            Verdict::Fit => {
                self.fit_checks_to_go = self.fit_checks_to_go.saturating_sub(1);
                self.is_fit = self.fit_checks_to_go == 0;
            }
            _ => {
                self.must_catch_up();
                if verdict == Verdict::Behind || self.fit_checks_to_go > 0 {
                    self.fit_checks_to_go = FIT_CHECKS_TO_RETURN;
                }
            }
        }
    }

    /// The verdict on a replica that was promoted: in a failover it becomes the primary, so that
    /// the primary must tell of itself once more before the replica is left out.
    fn resolved(&mut self, verdict: Verdict, now: Instant) -> Verdict {
        let Verdict::Promoted { primary_told } = verdict else {
            self.promoted_since = None;
            return verdict;
        };
        if primary_told > *self.promoted_since.get_or_insert(now) {
            Verdict::Unfit(PROMOTED)
        } else {
            Verdict::Unchanged
        }
    }

    fn left_out(&mut self, reason: &str) -> Option<News> {
        if matches!(self.told, Told::LeftOut | Told::Unfit(_)) {
            return None;
        }
        self.told = Told::LeftOut;
        Some(News::LeftOut(reason.into()))
    }

    fn used(&mut self) -> Option<News> {
        match std::mem::replace(&mut self.told, Told::Used) {
            Told::Used => None,
            Told::Nothing => Some(News::Used),
            Told::LeftOut | Told::Unfit(_) | Told::IsPrimary => Some(News::Back),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_replica_is_used_from_its_first_good_check_until_it_fails() {
        let (mut standing, now) = (Standing::new(), Instant::now());
        assert!(!standing.is_used(now) && standing.is_due(now));
        assert_eq!(standing.judged(Verdict::Waiting, now), None);
        assert!(!standing.is_used(now));
        assert_eq!(standing.judged(Verdict::Fit, now), Some(News::Used));
        assert_eq!(standing.judged(Verdict::Fit, now), None);
        assert!(standing.is_used(now) && !standing.is_used(now + CHECK_COUNTS_FOR));
        let left_out = News::LeftOut("gone".into());
        assert_eq!(standing.failed("gone", now), Some(left_out));
        assert_eq!(standing.failed("gone", now), None, "another thread");
        assert_eq!(standing.judged(Verdict::Fit, now), None, "an old check");
        assert!(!standing.is_used(now) && !standing.is_due(now + 4 * SECOND));
        let later = now + FIRST_PAUSE;
        assert!(standing.is_due(later));
        assert_eq!(standing.judged(Verdict::Fit, later), Some(News::Back));
        assert!(standing.is_used(later));
    }

    #[test]
    fn further_failures_leave_it_out_for_longer_and_are_not_told() {
        let (mut standing, mut now) = (Standing::new(), Instant::now());
        assert!(standing.failed("gone", now).is_some());
        for pause in [5, 10, 20, 30, 30] {
            assert!(!standing.is_due(now + pause * SECOND - SECOND / 2));
            now += pause * SECOND;
            assert!(standing.is_due(now));
            assert_eq!(standing.failed("gone", now), None);
        }
        now += LONGEST_PAUSE;
        assert_eq!(standing.judged(Verdict::Fit, now), Some(News::Back));
        assert!(standing.failed("gone", now + SECOND).is_some());
        assert!(!standing.is_due(now + LONGEST_PAUSE), "it failed at once");
        now += LONGEST_PAUSE + SECOND;
        standing.judged(Verdict::Fit, now);
        now += WELL_AFTER;
        assert!(standing.failed("gone", now).is_some());
        assert!(standing.is_due(now + FIRST_PAUSE), "it was well before");
    }

    #[test]
    fn one_that_was_behind_is_back_when_it_is_well_for_some_checks_in_a_row() {
        let (mut standing, now) = (Standing::new(), Instant::now());
        standing.judged(Verdict::Fit, now);
        let news = standing.judged(Verdict::Behind, now);
        assert!(matches!(news, Some(News::LeftOut(_))));
        assert_eq!(standing.judged(Verdict::Behind, now), None);
        assert!(!standing.is_used(now) && standing.is_due(now));
        for interruption in [Verdict::Behind, Verdict::Waiting] {
            for _ in 1..FIT_CHECKS_TO_RETURN {
                assert_eq!(standing.judged(Verdict::Fit, now), None);
                assert!(!standing.is_used(now));
            }
            assert_eq!(standing.judged(interruption, now), None);
        }
        for _ in 1..FIT_CHECKS_TO_RETURN {
            assert_eq!(standing.judged(Verdict::Fit, now), None);
        }
        assert_eq!(standing.judged(Verdict::Fit, now), Some(News::Back));
        assert!(standing.is_used(now));
        standing.judged(Verdict::Waiting, now);
        standing.judged(Verdict::Fit, now);
        assert!(standing.is_used(now), "it was not behind");
    }

    #[test]
    fn what_nothing_new_is_known_of_is_as_before_unless_it_was_away_for_long() {
        let (mut standing, now) = (Standing::new(), Instant::now());
        standing.judged(Verdict::Unchanged, now);
        assert!(!standing.is_used(now));
        standing.judged(Verdict::Fit, now);
        standing.judged(Verdict::Unchanged, now + SECOND);
        assert!(standing.is_used(now + CHECK_COUNTS_FOR));
        standing.failed("gone", now + SECOND);
        let later = now + SECOND + FIRST_PAUSE;
        assert_eq!(standing.judged(Verdict::Unchanged, later), Some(News::Back));
        standing.failed("gone", later);
        let hours_later = later + 3 * 60 * 60 * SECOND;
        assert_eq!(standing.judged(Verdict::Unchanged, hours_later), None);
        assert!(!standing.is_used(hours_later));
        let news = standing.judged(Verdict::Fit, hours_later);
        assert_eq!(news, Some(News::Back));
        standing.judged(Verdict::Behind, hours_later);
        standing.judged(Verdict::Unchanged, hours_later);
        assert!(!standing.is_used(hours_later));
    }

    #[test]
    fn one_that_has_failed_must_catch_up_as_well() {
        let (mut standing, now) = (Standing::new(), Instant::now());
        standing.judged(Verdict::Fit, now);
        standing.failed("gone", now);
        standing.must_catch_up();
        let later = now + FIRST_PAUSE;
        assert_eq!(standing.judged(Verdict::Unchanged, later), None);
        assert!(!standing.is_used(later));
        assert_eq!(standing.judged(Verdict::Fit, later), Some(News::Back));
    }

    #[test]
    fn one_that_is_promoted_is_left_out_unless_it_becomes_the_primary() {
        let (mut standing, now) = (Standing::new(), Instant::now());
        standing.judged(Verdict::Fit, now);
        let promoted = Verdict::Promoted { primary_told: now };
        assert_eq!(standing.judged(promoted, now + SECOND), None);
        assert!(standing.is_used(now + SECOND));
        let later = now + 2 * SECOND;
        let becomes_primary = standing.judged(Verdict::IsPrimary, later);
        assert_eq!(becomes_primary, Some(News::IsPrimary));
        standing.judged(Verdict::Fit, later);
        standing.judged(promoted, later);
        let told_again = Verdict::Promoted {
            primary_told: later + SECOND,
        };
        let news = standing.judged(told_again, later + SECOND);
        assert_eq!(news, Some(News::LeftOut(PROMOTED.into())));
        assert!(!standing.is_used(later + SECOND));
    }

    #[test]
    fn one_that_can_t_be_used_is_told_once_for_each_reason() {
        let (mut standing, now) = (Standing::new(), Instant::now());
        assert!(standing.failed("gone", now).is_some());
        let now = now + FIRST_PAUSE;
        assert!(standing.judged(Verdict::Unfit("a"), now).is_some());
        assert!(standing.judged(Verdict::Unfit("a"), now).is_none());
        assert!(standing.judged(Verdict::Unfit("b"), now).is_some());
        assert!(standing.judged(Verdict::Behind, now).is_none());
        let news = standing.judged(Verdict::IsPrimary, now);
        assert_eq!(news, Some(News::IsPrimary));
        assert_eq!(standing.judged(Verdict::IsPrimary, now), None);
        assert!(!standing.is_used(now));
    }
}
