//! `files`: deals with files that were reported to the operator.

use std::collections::HashSet;
use std::io::{self, BufRead};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::explain::explain;
use crate::config::Config;
use crate::db::{Block, Connection, Database, Error, KnownFile};
use crate::output::{self, mention, one_line, print};
use crate::protocol::file_id::FileId;
use crate::protocol::http::unix_seconds;
use crate::quantity;

/// A subcommand of `files`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `show`: prints what is known of each id.
    Show {
        /// `--json`: print JSON instead of text.
        json: bool,
    },
    /// `delete`: deletes files.
    Delete,
    /// `block`: deletes files, and refuses them from now on.
    Block {
        /// `--reason`: the reason, in the operator's words.
        reason: Option<String>,
    },
    /// `unblock`: accepts blocked files again.
    Unblock,
    /// `blocked`: lists the blocked ids.
    Blocked {
        /// `--json`: print JSON instead of text.
        json: bool,
    },
}

/// The argument that stands for a list on standard input.
pub const LIST: &str = "-";

/// Runs the subcommand for each of `words`, which are ids, links to files, or [`LIST`].
///
/// # Errors
/// A sentence for the operator: about the last id that wasn't found (those about the others are
/// printed), or about what has ended the work early. What was done before stays done.
pub fn run(config: &Config, action: &Action, words: &[String]) -> Result<(), String> {
    let mut db = Database::new(config.database.clone()).connection();
    let checked = db.check_schema();
    checked.map_err(|error| explain(&error, config))?;
    if let Action::Blocked { json } = action {
        return list_blocked(&mut db, *json).map_err(|ended| ended.explain(config));
    }
    let mut work = Work {
        db,
        action,
        list: List::default(),
        seen: HashSet::new(),
        complaint: None,
    };
    let ended = work.each(words).and_then(|()| match action {
        Action::Show { json: true } => work.list.end(),
        _ => Ok(()),
    });
    if let Err(ended) = ended {
        if let Some(earlier) = work.complaint {
            output::complain(&earlier);
        }
        return Err(ended.explain(config));
    }
    work.complaint.map_or(Ok(()), Err)
}

/// Why the work ended early.
enum Ended {
    /// The database failed, at this id if the work was for one.
    Database(Option<FileId>, Error),
    /// Standard input or output failed.
    Other(String),
}

impl From<String> for Ended {
    fn from(sentence: String) -> Ended {
        Ended::Other(sentence)
    }
}

impl Ended {
    fn explain(self, config: &Config) -> String {
        match self {
            Ended::Other(sentence) => sentence,
            Ended::Database(None, error) => explain(&error, config),
            Ended::Database(Some(id), error) => format!(
                "{}; repeat this for {id} and those after it",
                explain(&error, config)
            ),
        }
    }
}

/// One run of a subcommand.
struct Work<'a> {
    db: Connection,
    action: &'a Action,
    /// The array that `show --json` prints.
    list: List,
    /// The ids that are done. An id is often reported several times, and counts once.
    seen: HashSet<FileId>,
    /// The sentence about the last id that wasn't found, which is held back because the program
    /// ends with it.
    complaint: Option<String>,
}

impl Work<'_> {
    fn each(&mut self, words: &[String]) -> Result<(), Ended> {
        for word in words {
            if word != LIST {
                self.link(word)?;
                continue;
            }
            for line in io::stdin().lock().split(b'\n') {
                let line = line.map_err(|e| format!("standard input can't be read: {e}"))?;
                let line = String::from_utf8_lossy(&line);
                if !line.trim().is_empty() {
                    self.link(line.trim())?;
                }
            }
        }
        Ok(())
    }

    fn link(&mut self, link: &str) -> Result<(), Ended> {
        let Some(id) = FileId::in_link(link) else {
            let shown = one_line(link);
            self.complain(format!(
                "{shown} is neither a file's id nor a link to a file"
            ));
            return Ok(());
        };
        if self.seen.insert(id.clone()) {
            self.act(&id)?;
        }
        Ok(())
    }

    fn act(&mut self, id: &FileId) -> Result<(), Ended> {
        let failed = |error| Ended::Database(Some(id.clone()), error);
        match self.action {
            Action::Show { json } => {
                let known = self.db.known_file(id).map_err(failed)?;
                self.show(id, &known, *json)?;
            }
            Action::Delete => match self.db.delete_file(id).map_err(failed)? {
                Some(bytes) => mention(&format!("{id} deleted, {}\n", quantity::bytes(bytes))),
                None => self.complain(format!("{id} isn't stored here")),
            },
            Action::Block { reason } => {
                let deleted = self.db.block_file(id, reason.as_deref());
                mention(&match deleted.map_err(failed)? {
                    Some(bytes) => {
                        format!("{id} blocked, {} deleted\n", quantity::bytes(bytes))
                    }
                    None => format!("{id} blocked, it wasn't stored here\n"),
                });
            }
            Action::Unblock => {
                if self.db.unblock_file(id).map_err(failed)? {
                    mention(&format!("{id} unblocked\n"));
                } else {
                    self.complain(format!("{id} isn't blocked"));
                }
            }
            // This subcommand takes no ids.
            Action::Blocked { .. } => {}
        }
        Ok(())
    }

    fn show(&mut self, id: &FileId, known: &KnownFile, json: bool) -> Result<(), String> {
        if known.stored.is_none() && known.block.is_none() {
            self.complain(format!("{id} is neither stored here nor blocked"));
            return Ok(());
        }
        if json {
            self.list.add(&known_as_json(id, known))
        } else {
            print(&describe(id, known))
        }
    }

    fn complain(&mut self, sentence: String) {
        if let Some(earlier) = self.complaint.replace(sentence) {
            output::complain(&earlier);
        }
    }
}

fn list_blocked(db: &mut Connection, json: bool) -> Result<(), Ended> {
    let (mut list, mut after, now) = (List::default(), String::new(), SystemTime::now());
    loop {
        let batch = db.blocked_files(&after);
        let batch = batch.map_err(|error| Ended::Database(None, error))?;
        let Some((last, _)) = batch.last() else { break };
        after.clone_from(last);
        for (id, block) in &batch {
            if json {
                let mut entry = json!({ "id": id });
                add_block(&mut entry, Some(block));
                list.add(&entry)?;
            } else {
                print(&format!("{id}  {}\n", describe_block(block, now)))?;
            }
        }
    }
    if json {
        list.end()?;
    }
    Ok(())
}

/// What is known of an id, as text.
fn describe(id: &FileId, known: &KnownFile) -> String {
    let now = SystemTime::now();
    let mut text = format!("{id}\n");
    match &known.stored {
        Some(file) => {
            text += &format!("  size      {}\n", quantity::bytes(file.size));
            text += &format!("  uploaded  {}\n", quantity::moment(file.uploaded, now));
            text += &format!("  expires   {}\n", quantity::moment(file.expires, now));
        }
        None => text += "  not stored\n",
    }
    let blocked = known.block.as_ref();
    let blocked = blocked.map_or("no".into(), |block| describe_block(block, now));
    text + &format!("  blocked   {blocked}\n")
}

fn describe_block(block: &Block, now: SystemTime) -> String {
    let since = quantity::moment(block.since, now);
    match &block.reason {
        Some(reason) => format!("{since}: {}", one_line(reason)),
        None => since,
    }
}

/// What is known of an id, as JSON. Times are Unix times in seconds, or `null`.
fn known_as_json(id: &FileId, known: &KnownFile) -> Value {
    let file = known.stored;
    let mut entry = json!({
        "id": id.as_str(),
        "size": file.map(|file| file.size),
        "uploaded": file.map(|file| unix_seconds(file.uploaded)),
        "expires": file.map(|file| unix_seconds(file.expires)),
    });
    add_block(&mut entry, known.block.as_ref());
    entry
}

fn add_block(entry: &mut Value, block: Option<&Block>) {
    entry["blocked"] = json!(block.map(|block| unix_seconds(block.since)));
    entry["reason"] = json!(block.and_then(|block| block.reason.as_deref()));
}

/// A JSON array that is printed while it grows.
#[derive(Default)]
struct List {
    has_entries: bool,
}

impl List {
    fn add(&mut self, entry: &Value) -> Result<(), String> {
        let start = if self.has_entries { ",\n" } else { "[\n" };
        self.has_entries = true;
        print(&format!("{start}{entry}"))
    }

    fn end(&self) -> Result<(), Ended> {
        let end = if self.has_entries { "\n]\n" } else { "[]\n" };
        Ok(print(end)?)
    }
}
