//! `${CREDENTIALS_DIRECTORY}/consul`: environment variables, in the paths of secrets and of the state alone.

/// The environment that variables are taken from.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces each `${NAME}`. A variable that is not set is an error: a path must not shrink to something else.
pub fn expand(text: &str, environment: Environment) -> Result<String, String> {
    let mut whole = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        whole.push_str(&rest[..at]);
        let Some((name, after)) = rest[at + 2..].split_once('}') else {
            return Err("`${` lacks its closing brace".into());
        };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err("expected a variable such as ${CREDENTIALS_DIRECTORY}".into());
        }
        match environment(name).filter(|value| !value.is_empty()) {
            Some(value) => whole.push_str(&value),
            None if name == "CREDENTIALS_DIRECTORY" => {
                return Err("the variable CREDENTIALS_DIRECTORY is not set: systemd sets it for a unit with \
                            LoadCredential=; in a shell, set it to the directory with the credentials"
                    .into());
            }
            None => return Err(format!("the variable {name} is not set")),
        }
        rest = after;
    }
    whole.push_str(rest);
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_replaced_or_missed_aloud() {
        let environment = |name: &str| match name {
            "DIR" => Some("/run/c".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let read = |text: &str| expand(text, &environment);
        assert_eq!(read("${DIR}/a"), Ok("/run/c/a".into()));
        assert_eq!(read("/plain/$DIR"), Ok("/plain/$DIR".into()));
        for (wrong, says) in [
            ("${NONE}/a", "NONE is not set"),
            ("${EMPTY}/a", "EMPTY is not set"),
            ("${DIR", "closing brace"),
            ("${D-R}", "expected a variable"),
            ("${CREDENTIALS_DIRECTORY}/a", "LoadCredential="),
        ] {
            let error = read(wrong).unwrap_err();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }
}
