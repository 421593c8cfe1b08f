//! Timestamps: seconds since 1970 in UTC on the wire, ISO 8601 above.

/// The last second of the year 9999, the last that Python's `datetime` knows.
const LAST: u64 = 253_402_300_799;
const DAY: i64 = 86_400;

/// `2020-01-02T03:04:05`, as Python writes a `datetime` without a zone; `None` after the year 9999.
pub(super) fn format(seconds: u64) -> Option<String> {
    let seconds = i64::try_from(seconds).ok().filter(|_| seconds <= LAST)?;
    let (year, month, day) = date(seconds.div_euclid(DAY));
    let time = seconds.rem_euclid(DAY);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"))
}

/// Reads what Python's `isoformat` writes: a date, a time with or without fractions, and a zone
/// (UTC without one). `None` when it is none, or before 1970.
pub(super) fn parse(text: &str) -> Option<u64> {
    let number = |text: &str| text.parse::<i64>().ok().filter(|_| !text.starts_with(['+', '-']));
    let (day, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00"));
    let mut parts = day.split('-').map(number);
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let zone_at = time.find(['+', '-', 'Z']).unwrap_or(time.len());
    let (time, zone) = time.split_at(zone_at);
    let mut parts = time.split('.').next()?.split(':').map(number);
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().unwrap_or(Some(0))?;
    let offset = match zone.as_bytes() {
        [] | [b'Z'] => 0,
        [sign, ..] => {
            let (hours, minutes) = zone[1..].split_once(':')?;
            let offset = number(hours)? * 3600 + number(minutes.get(..2)?)? * 60;
            if *sign == b'-' { -offset } else { offset }
        }
    };
    let seconds = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second - offset;
    u64::try_from(seconds).ok()
}

/// Days since 1970 of a date in the Gregorian calendar, counted in years that begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date of a day since 1970: year, month, day.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_577_934_245, "2020-01-02T03:04:05"),
            (LAST, "9999-12-31T23:59:59"),
        ] {
            assert_eq!(format(seconds).as_deref(), Some(text));
            assert_eq!(parse(text), Some(seconds));
        }
        assert_eq!(format(LAST + 1), None);
        assert_eq!(parse("2020-01-02 03:04:05.123456+00:00"), Some(1_577_934_245));
        assert_eq!(parse("2020-01-01T22:04:05-05:00"), Some(1_577_934_245));
        for wrong in
            ["", "2020", "2020-13-01T00:00:00", "1960-01-01T00:00:00", "x-y-z", "2020-1-1T1"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn there_and_back(seconds in 0..=LAST) {
            prop_assert_eq!(parse(&format(seconds).unwrap()), Some(seconds));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "[-0-9T:.+Z é]{0,30}") {
            let _ = parse(&text);
        }
    }
}
