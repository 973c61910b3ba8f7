//! Kubernetes quantities, as far as memory sizes and CPU counts need them.

use crate::ParseError;

/// Parses a memory quantity such as `256Mi`, `1G` or `134217728` into bytes.
pub fn bytes(text: &str) -> Result<u64, ParseError> {
    let wrong =
        || ParseError(format!("quantity {text:?} is not a size: use a number with a unit, such as 256Mi or 1Gi"));
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err(wrong()),
    };
    let value: f64 = number.parse().map_err(|_| wrong())?;
    let total = value * factor as f64;
    if total.is_finite() && (0.0..9e18).contains(&total) { Ok(total.ceil() as u64) } else { Err(wrong()) }
}

/// Parses a CPU quantity such as `2`, `1500m` or `0.5` into whole virtual CPUs, rounded up, at least 1.
pub fn cpus(text: &str) -> Result<u32, ParseError> {
    let wrong = || ParseError(format!("quantity {text:?} is not a number of CPUs: use a number such as 2 or 1500m"));
    let (number, divisor) = match text.strip_suffix('m') {
        Some(milli) => (milli, 1000.0),
        None => (text, 1.0),
    };
    let value: f64 = number.parse().map_err(|_| wrong())?;
    if (0.0..=100_000.0).contains(&value) { Ok(((value / divisor).ceil() as u32).max(1)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(bytes("256Mi").unwrap(), 268_435_456);
        assert_eq!(bytes("1G").unwrap(), 1_000_000_000);
        assert_eq!(bytes("1.5Gi").unwrap(), 1_610_612_736);
        for bad in ["", "Mi", "-1", "12Q", "1e400"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cpu_counts_round_up() {
        assert_eq!(cpus("1500m").unwrap(), 2);
        assert_eq!(cpus("0.5").unwrap(), 1);
        assert!(cpus("two").is_err());
    }
}
