"""The version of the code, for the records of a run."""

from pathlib import Path


def commit_hash() -> str:
    """Commit of the code, with ``+`` when it has uncommitted changes; empty outside a repository or without git."""
    try:
        import git  # fails to import where the program is missing

        with git.Repo(Path(__file__).parent, search_parent_directories=True) as repository:
            return repository.head.commit.hexsha + ("+" if repository.is_dirty() else "")
    except Exception:  # no git, no repository, none that may be read, no commit yet
        return ""
