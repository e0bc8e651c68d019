//! [`Project::load`]: from a folder to a checked [`Project`].
//!
//! **Invariant:** names are unique in the project, and every INSERT INTO names a table of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemill_model::{Error, Kind, Options, Place, Result, Trigger, nearest};
use tidemill_runtime::ErrorLimit;

use super::beside::{Expectation, Task, Wait};
use super::config::Config;
use super::model::{Dataset, Insert, MaterializedView, OnError, Pipeline, Project, View};
use super::options::{VIEW_OPTIONS, pipeline_options, place, refuse_unbuilt};
use super::parse::{Header, Statements, parse_script};
use super::scheduling::Scheduling;
use super::script::Script;

/// The file that makes a folder a project.
const CONFIG: &str = "tidemill.toml";

impl Project {
    /// Reads the project that `start` lies in: the folder itself or the nearest above it that has a `tidemill.toml`.
    /// `env` answers environment variables.
    ///
    /// # Errors
    /// Config and Plan, all that are found, each at its place.
    pub fn load(start: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Project> {
        let root = find(start)?;
        let config = read(&root.join(CONFIG), CONFIG).and_then(|text| Config::parse(&root, &text, env));
        let mut scripts = Vec::new();
        let mut unread = Vec::new();
        for name in names(&root.join("pipelines"))? {
            let file = format!("pipelines/{name}");
            match read(&root.join(&file), &file) {
                Ok(text) => scripts.push(Script::new(file, text)),
                Err(error) => unread.push(error),
            }
        }
        match config {
            Ok(config) if unread.is_empty() => Project::parse(root, config, &scripts),
            config => {
                // What is wrong inside the files that can be read is told as well, so that one look mends all of it.
                let mut errors: Vec<Error> = config.err().into_iter().chain(unread).collect();
                errors.extend(scripts.iter().flat_map(|script| parse_script(script).1));
                Err(Error::all(errors).unwrap_or_else(|| Error::internal("a project without errors was refused")))
            }
        }
    }

    /// The project of these scripts.
    ///
    /// # Errors
    /// Plan and Config, all that are found, each at its place.
    pub fn parse(root: PathBuf, config: Config, scripts: &[Script]) -> Result<Project> {
        let mut errors = Vec::new();
        let mut files = Vec::new();
        for script in scripts {
            let (statements, found) = parse_script(script);
            errors.extend(found);
            files.push((script, statements));
        }
        // What refers to a statement that could not be read would be an error of its own: it is held back.
        if let Some(error) = Error::all(errors) {
            return Err(error);
        }
        let mut building = Building::new(root, config);
        for (script, statements) in files {
            building.file(script, statements);
        }
        building.check();
        match Error::all(building.errors) {
            Some(error) => Err(error),
            None => Ok(building.project),
        }
    }
}

/// The nearest folder upwards with a `tidemill.toml`.
fn find(start: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(start).map_err(|e| Error::io("find", start.display(), e))?;
    if !absolute.exists() {
        return Err(Error::new(Kind::Config, "C001", format!("there is no folder {}", start.display())));
    }
    absolute.ancestors().find(|folder| folder.join(CONFIG).is_file()).map(Path::to_path_buf).ok_or_else(|| {
        let here = if start == Path::new(".") { "here".to_owned() } else { format!("in {}", start.display()) };
        Error::new(Kind::Config, "C001", format!("no {CONFIG} {here} or above, so this is no project"))
            .fact("go to the project's folder, or name it: tidemill -C FOLDER …")
            .fact("or begin one: tidemill init FOLDER")
    })
}

fn read(path: &Path, shown: &str) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", shown, e))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::new(Kind::Config, "C008", format!("{shown} is not UTF-8 text"))
            .fact(format!("byte {at} is no part of it"))
    })?;
    Ok(text.strip_prefix('\u{feff}').map_or_else(|| text.clone(), ToOwned::to_owned))
}

/// The names of the SQL files of a folder, in order; none when there is no such folder.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", folder.display(), error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("read", folder.display(), e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".sql") && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

struct Building {
    project: Project,
    errors: Vec<Error>,
    /// What each name of a table or view stands for, and where it was given.
    relations: BTreeMap<String, (&'static str, Place)>,
    /// Every pipeline, those with errors too, and where its name stands.
    pipelines: Vec<(String, Place)>,
    /// What each of them writes.
    inserts: Vec<(String, Vec<Insert>)>,
}

impl Building {
    fn new(root: PathBuf, config: Config) -> Building {
        let project = Project {
            root,
            config,
            pipelines: BTreeMap::new(),
            datasets: BTreeMap::new(),
            views: BTreeMap::new(),
            materialized: BTreeMap::new(),
        };
        Building { project, errors: Vec::new(), relations: BTreeMap::new(), pipelines: Vec::new(), inserts: Vec::new() }
    }

    fn file(&mut self, script: &Script, statements: Statements) {
        let Statements { pipelines, datasets, views, materialized, inserts, tasks, waits, expectations } = statements;
        let mut pipelines = pipelines.into_iter();
        let header = pipelines.next();
        for second in pipelines {
            let error = Error::new(Kind::Plan, "P113", "a file has one pipeline").at(&second.place);
            self.errors.push(error.label("the second one").fact("give it a file of its own in pipelines/"));
        }
        let owner = header.as_ref().map_or_else(String::new, |header| header.name.clone());
        for dataset in datasets {
            if self.relation("table", &dataset.name, &dataset.place) {
                self.project.datasets.insert(dataset.name.clone(), Dataset { pipeline: owner.clone(), ..dataset });
            }
        }
        for view in views {
            if self.relation("view", &view.name, &view.place) {
                self.project.views.insert(view.name.clone(), View { pipeline: owner.clone(), ..view });
            }
        }
        let Some(header) = header else {
            let places = materialized.iter().map(|(view, _)| &view.place).chain(inserts.iter().map(|i| &i.place));
            let places = places.chain(tasks.iter().map(|task| &task.place)).chain(waits.iter().map(|wait| &wait.place));
            let places = places.chain(expectations.iter().map(|expectation| &expectation.place));
            for place in places.take(1) {
                let error = Error::new(Kind::Plan, "P113", "this file has no pipeline that could do this").at(place);
                self.errors.push(
                    error
                        .fact("add CREATE PIPELINE name WITH (trigger = 'once')")
                        .fact("a file without one may only declare tables and views for the others"),
                );
            }
            return;
        };
        let mut names = Vec::new();
        for (view, options) in materialized {
            names.push(view.name.clone());
            self.materialized(view, &options, &owner);
        }
        for (what, name, place) in tasks
            .iter()
            .map(|task| ("task", &task.name, &task.place))
            .chain(waits.iter().map(|wait| ("wait", &wait.name, &wait.place)))
            .chain(expectations.iter().map(|e| ("expectation", &e.name, &e.place)))
        {
            self.relation(what, name, place);
        }
        self.pipeline(script, header, Body { inserts, materialized: names, tasks, waits, expectations });
    }

    /// Whether the name is new.
    fn relation(&mut self, what: &'static str, name: &str, place: &Place) -> bool {
        if let Some((kind, first)) = self.relations.get(name) {
            self.errors.push(declared_twice(name, place, kind, first));
            return false;
        }
        self.relations.insert(name.to_owned(), (what, place.clone()));
        true
    }

    fn materialized(&mut self, view: View, options: &Options, owner: &str) {
        let settings = options.resolve("materialized view", VIEW_OPTIONS);
        // The name is known whatever its options say: what refers to it is right.
        let is_new = self.relation("materialized view", &view.name, &view.place);
        match settings {
            Err(error) => self.errors.push(error),
            Ok(settings) if is_new => {
                let View { name, query, place, .. } = view;
                let view = MaterializedView { name, pipeline: owner.to_owned(), query, settings, place };
                self.project.materialized.insert(view.name.clone(), view);
            }
            Ok(_) => {}
        }
    }

    fn pipeline(&mut self, script: &Script, header: Header, body: Body) {
        let Body { inserts, materialized, tasks, waits, expectations } = body;
        let Header { name, place: at, options } = header;
        let (options, unbuilt) = refuse_unbuilt(&options);
        let before = self.errors.len();
        self.errors.extend(unbuilt);
        let settings = options.resolve("pipeline", &pipeline_options());
        let value_place = |name: &str| options.given.get(name).and_then(|given| given.value_place.as_ref());
        let trigger = Trigger::parse(options.get("trigger").unwrap_or("once"), options.get("timezone"))
            .map_err(|error| place(error, value_place("trigger")));
        self.inserts.push((name.clone(), inserts.clone()));
        if let Some((_, first)) = self.pipelines.iter().find(|(other, _)| *other == name) {
            self.errors.push(declared_twice(&name, &at, "pipeline", first));
        }
        self.pipelines.push((name.clone(), at.clone()));
        let (settings, trigger) = match (settings, trigger) {
            (Ok(settings), Ok(trigger)) => (settings, trigger),
            (settings, trigger) => return self.errors.extend(settings.err().into_iter().chain(trigger.err())),
        };
        let checkpoint = settings.span("checkpoint").unwrap_or_default();
        if checkpoint.is_zero() {
            let error = Error::new(Kind::Config, "C019", "epochs cannot be committed every 0 seconds");
            self.errors.push(place(error, value_place("checkpoint")));
        }
        if settings.span("emit_every").is_some_and(|every| every.is_zero()) {
            let error = Error::new(Kind::Config, "C160", "changes cannot go out every 0 seconds")
                .fact("leave emit_every out: a key then changes at most once an epoch");
            self.errors.push(place(error, value_place("emit_every")));
        }
        if self.errors.len() > before {
            return;
        }
        let scheduling = match Scheduling::of(&settings, &trigger, &|name| value_place(name).cloned()) {
            Ok(scheduling) => scheduling,
            Err(errors) => return self.errors.extend(errors),
        };
        let max_errors = match ErrorLimit::parse(settings.text("max_errors").unwrap_or("1 %")) {
            Ok(limit) => limit,
            Err(error) => return self.errors.push(place(error, value_place("max_errors"))),
        };
        if inserts.is_empty() && materialized.is_empty() && tasks.is_empty() {
            let error = Error::new(Kind::Plan, "P113", format!("the pipeline `{name}` writes nothing")).at(&at);
            self.errors
                .push(error.fact("add INSERT INTO table SELECT …, or CREATE MATERIALIZED VIEW name AS SELECT …"));
        }
        let pipeline = Pipeline {
            file: Arc::clone(script.file()),
            text: Arc::clone(script.text()),
            place: at,
            trigger,
            checkpoint,
            latency: settings.span("latency"),
            start: settings.time("start"),
            keeps_late: settings.text("late") != Some("drop"),
            lateness: settings.span("allowed_lateness").unwrap_or_default(),
            emit_changes: settings.text("emit") == Some("changes"),
            emit_every: settings.span("emit_every"),
            on_error: OnError::of(settings.text("on_error").unwrap_or_default()),
            max_errors,
            settings,
            inserts,
            materialized,
            tasks,
            waits,
            expectations,
            scheduling,
            name: name.clone(),
        };
        self.errors.extend(unknown_steps(&pipeline));
        self.project.pipelines.insert(name, pipeline);
    }

    /// What can be said only when all files are read.
    fn check(&mut self) {
        let tables: Vec<&str> = self.project.datasets.keys().map(String::as_str).collect();
        for expectation in self.project.pipelines.values().flat_map(|pipeline| &pipeline.expectations) {
            let (name, at) = &expectation.dataset;
            if !self.project.datasets.contains_key(name) {
                let error = Error::new(Kind::Plan, "P117", format!("no table `{name}`")).at(at);
                self.errors.push(match nearest(name, tables.iter().copied()) {
                    Some(meant) => error.label(format!("did you mean `{meant}`?")),
                    None => error.label("expectations are of tables that the pipeline reads or writes"),
                });
            }
        }
        for (_, inserts) in &self.inserts {
            for (n, insert) in inserts.iter().enumerate() {
                let target = insert.target.as_str();
                match self.relations.get(target) {
                    Some(("table", _)) => {}
                    Some((kind, _)) => {
                        let error = Error::new(Kind::Plan, "P105", format!("`{target}` is a {kind}")).at(&insert.place);
                        self.errors.push(error.label("INSERT INTO writes tables"));
                    }
                    None => {
                        let error = Error::new(Kind::Plan, "P105", format!("no table `{target}`")).at(&insert.place);
                        let error = match nearest(target, tables.iter().copied()) {
                            Some(meant) => error.label(format!("did you mean `{meant}`?")),
                            None => error.label("declare it with CREATE TABLE"),
                        };
                        let known = if tables.is_empty() { "none".to_owned() } else { tables.join(", ") };
                        self.errors.push(error.fact(format!("tables: {known}")));
                    }
                }
                if let Some(first) = inserts.iter().take(n).find(|earlier| earlier.target == target) {
                    let (line, _) = first.place.line_column();
                    let error = Error::new(Kind::Plan, "P115", format!("`{target}` is written twice by this pipeline"));
                    self.errors.push(
                        error
                            .at(&insert.place)
                            .label(format!("first on line {line}"))
                            .fact("write one INSERT INTO of both queries with UNION ALL between them"),
                    );
                }
            }
        }
    }
}

/// What the file of a pipeline says beside its header.
struct Body {
    inserts: Vec<Insert>,
    materialized: Vec<String>,
    tasks: Vec<Task>,
    waits: Vec<Wait>,
    expectations: Vec<Expectation>,
}

/// Steps that tasks name and that the pipeline does not have.
fn unknown_steps(pipeline: &Pipeline) -> Vec<Error> {
    let targets = pipeline.inserts.iter().map(|insert| insert.target.as_str());
    let steps: Vec<&str> = targets.chain(pipeline.tasks.iter().map(|task| task.name.as_str())).collect();
    let named = pipeline.tasks.iter().flat_map(|task| task.after.iter().chain(&task.before));
    let unknown = named.filter(|(name, _)| !steps.contains(&name.as_str()));
    unknown
        .map(|(name, at)| {
            let error = Error::new(Kind::Plan, "P118", format!("no step `{name}` in this pipeline")).at(at);
            let error = match nearest(name, steps.iter().copied()) {
                Some(meant) => error.label(format!("did you mean `{meant}`?")),
                None => error.label("name a table that this pipeline writes, or one of its tasks"),
            };
            error.fact(format!("steps: {}", steps.join(", ")))
        })
        .collect()
}

fn declared_twice(name: &str, place: &Place, kind: &str, first: &Place) -> Error {
    let (line, column) = first.line_column();
    Error::new(Kind::Plan, "P103", format!("`{name}` is declared twice"))
        .at(place)
        .label(format!("a {kind} of this name stands at {}:{line}:{column}", first.file))
}
