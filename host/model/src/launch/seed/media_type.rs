//! Tells the media type that cloud-init takes user-data for, by its first words (cloudinit/handlers,
//! INCLUSION_TYPES_MAP).

/// The first words, and the media type of each. A longer beginning comes before a shorter one that it begins with.
const BEGINNINGS: [(&str, &str); 10] = [
    ("#cloud-config-archive", "text/cloud-config-archive"),
    ("#cloud-config-jsonp", "text/cloud-config-jsonp"),
    ("#include-once", "text/x-include-once-url"),
    ("## template: jinja", "text/jinja2"),
    ("#cloud-boothook", "text/cloud-boothook"),
    ("#cloud-config", CLOUD_CONFIG),
    ("#part-handler", "text/part-handler"),
    ("#upstart-job", "text/upstart-job"),
    ("#include", "text/x-include-url"),
    ("#!", "text/x-shellscript"),
];

pub(super) const CLOUD_CONFIG: &str = "text/cloud-config";
pub(super) const MULTIPART: &str = "multipart/mixed";

/// How many bytes cloud-init searches for the header of a message.
const HEADER_BYTES: usize = 4096;

pub(super) fn of(text: &str) -> &'static str {
    let head = text.as_bytes();
    let head = head.get(..HEADER_BYTES).unwrap_or(head).to_ascii_lowercase();
    let mark = b"mime-version:";
    if head.windows(mark.len()).any(|here| here == mark) {
        return MULTIPART;
    }
    let begin: String = text.trim_start().chars().take(32).collect::<String>().to_lowercase();
    let found = BEGINNINGS.iter().find(|(words, _)| begin.starts_with(words));
    found.map_or("text/plain", |(_, media_type)| media_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_what_its_first_words_say() {
        for (text, media_type) in [
            ("#cloud-config\nusers: []", CLOUD_CONFIG),
            ("\n  #Cloud-Config\n", CLOUD_CONFIG),
            ("#cloud-config-archive\n- a", "text/cloud-config-archive"),
            ("#!/bin/sh\ntrue", "text/x-shellscript"),
            ("#include\nhttps://a.example/", "text/x-include-url"),
            ("#include-once\nhttps://a.example/", "text/x-include-once-url"),
            ("## template: jinja\n#cloud-config\n", "text/jinja2"),
            ("#cloud-config\nx: |\n  MIME-Version: 1.0", MULTIPART),
            ("Content-Type: multipart/mixed\nMIME-Version: 1.0\n\n", MULTIPART),
            ("users: []", "text/plain"),
            ("", "text/plain"),
        ] {
            assert_eq!(of(text), media_type, "{text:?}");
        }
    }
}
