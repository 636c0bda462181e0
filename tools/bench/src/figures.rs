//! Medians and percentiles.

use std::time::Duration;

/// The value in the middle; zero of nothing.
pub fn median(values: &mut [f64]) -> f64 {
    percentile(values, 50)
}

/// The value that `percent` of all do not exceed.
pub fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get(last * percent / 100).copied().unwrap_or(0.0)
}

/// In microseconds.
pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let mut values = [4.0, 1.0, 3.0, 2.0, 5.0];
        assert_eq!(median(&mut values).total_cmp(&3.0), std::cmp::Ordering::Equal);
        assert_eq!(percentile(&mut values, 100).total_cmp(&5.0), std::cmp::Ordering::Equal);
        assert_eq!(median(&mut []).total_cmp(&0.0), std::cmp::Ordering::Equal);
    }
}
