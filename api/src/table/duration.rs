//! Durations as tables show them: about two significant figures.

use jiff::Timestamp;

/// How long ago a time was, or `<unknown>` without one.
pub fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    match since {
        Some(since) => human(now.duration_since(since).as_secs()),
        None => "<unknown>".to_owned(),
    }
}

/// A duration in seconds as people read it: `5s`, `3m20s`, `27h`, `5d3h`, `2y40d`.
pub fn human(seconds: i64) -> String {
    // Clocks differ: a little in the future is now.
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let pair = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => pair(days, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => pair(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_prints_them() {
        const M: i64 = 60;
        const H: i64 = 60 * M;
        const D: i64 = 24 * H;
        for (seconds, text) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (9 * M + 59, "9m59s"),
            (10 * M + 59, "10m"),
            (179 * M, "179m"),
            (180 * M, "3h"),
            (3 * H + 5 * M, "3h5m"),
            (8 * H, "8h"),
            (47 * H, "47h"),
            (48 * H, "2d"),
            (50 * H, "2d2h"),
            (8 * D, "8d"),
            (729 * D, "729d"),
            (730 * D, "2y"),
            (731 * D, "2y1d"),
            (8 * 365 * D, "8y"),
            (20 * 365 * D, "20y"),
        ] {
            assert_eq!(human(seconds), text, "{seconds}");
        }
        let now: Timestamp = "2024-01-01T00:01:00Z".parse().unwrap();
        assert_eq!(age("2024-01-01T00:00:00Z".parse().ok(), now), "60s");
        assert_eq!(age(None, now), "<unknown>");
    }
}
