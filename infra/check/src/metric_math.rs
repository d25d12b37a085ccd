//! CloudWatch's metric math, as far as scaling and alarms use it: numbers, metrics by their id, `+ - * /`, `< >`, brackets, `IF`, and
//! `FILL` with a number.
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html>

use std::collections::BTreeMap;

/// What an expression comes to in a minute of which these values are known. A comparison is 1 or 0.
pub fn evaluate(expression: &str, values: &BTreeMap<String, f64>) -> Result<f64, String> {
    let mut reader = Reader { rest: expression.trim_start(), values };
    let value = reader.comparison()?;
    match reader.rest {
        "" => Ok(value),
        rest => Err(format!("`{rest}` is left over")),
    }
}

struct Reader<'e> {
    rest: &'e str,
    values: &'e BTreeMap<String, f64>,
}

impl<'e> Reader<'e> {
    fn take(&mut self, mark: char) -> bool {
        let Some(rest) = self.rest.strip_prefix(mark) else { return false };
        self.rest = rest.trim_start();
        true
    }

    fn need(&mut self, mark: char) -> Result<(), String> {
        if self.take(mark) { Ok(()) } else { Err(format!("`{mark}` is missing before `{}`", self.rest)) }
    }

    fn comparison(&mut self) -> Result<f64, String> {
        let left = self.sum()?;
        if self.take('<') {
            return Ok(f64::from(left < self.sum()?));
        }
        if self.take('>') {
            return Ok(f64::from(left > self.sum()?));
        }
        Ok(left)
    }

    fn sum(&mut self) -> Result<f64, String> {
        let mut value = self.product()?;
        loop {
            if self.take('+') {
                value += self.product()?;
            } else if self.take('-') {
                value -= self.product()?;
            } else {
                return Ok(value);
            }
        }
    }

    fn product(&mut self) -> Result<f64, String> {
        let mut value = self.factor()?;
        loop {
            if self.take('*') {
                value *= self.factor()?;
            } else if self.take('/') {
                let by = self.factor()?;
                // CloudWatch leaves such a minute out.
                if by == 0.0 {
                    return Err("division by 0".to_owned());
                }
                value /= by;
            } else {
                return Ok(value);
            }
        }
    }

    fn factor(&mut self) -> Result<f64, String> {
        if self.take('(') {
            let value = self.comparison()?;
            self.need(')')?;
            return Ok(value);
        }
        let end =
            self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        if word == "IF" {
            self.need('(')?;
            let condition = self.comparison()?;
            self.need(',')?;
            let then = self.comparison();
            self.need(',')?;
            let otherwise = self.comparison();
            self.need(')')?;
            return if condition != 0.0 { then } else { otherwise };
        }
        if word == "FILL" {
            self.need('(')?;
            let known = self.factor();
            self.need(',')?;
            let filled = self.factor()?;
            self.need(')')?;
            return Ok(known.unwrap_or(filled));
        }
        match word.parse() {
            Ok(number) => Ok(number),
            Err(_) => self.values.get(word).copied().ok_or(format!("there is no `{word}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_come_to_what_they_say() {
        let values: BTreeMap<String, f64> =
            [("w0", 3.0), ("h0", 2.0), ("instances", 0.0)].map(|(id, value)| (id.to_owned(), value)).into();
        let is = |expression: &str, value: f64| assert_eq!(evaluate(expression, &values), Ok(value), "{expression}");
        is("w0 + h0 * 2 - 1", 6.0);
        is("(w0 + h0) * 2", 10.0);
        is("IF(instances < 1, 1, instances)", 1.0);
        is("IF(w0 > h0, w0 / h0, 7)", 1.5);
        is("IF( w0 < h0 , 1 , IF(h0 > 1, 0.25, 9) )", 0.25);
        is("FILL(w0, 0) + FILL(unknown, 4)", 7.0);
    }

    #[test]
    fn what_cannot_be_worked_out_has_no_value() {
        let none = BTreeMap::new();
        for (expression, says) in [
            ("w0", "there is no `w0`"),
            ("1 / 0", "division by 0"),
            ("IF(1, 2)", "`,` is missing"),
            ("(1", "`)` is missing"),
            ("1 2", "left over"),
            ("SEARCH('x')", "there is no `SEARCH`"),
        ] {
            let said = evaluate(expression, &none).unwrap_err();
            assert!(said.contains(says), "{expression}: {said}");
        }
    }
}
