"""Entry script of `streamlit run`. Scripts have no package, hence the absolute import."""

from moescope.app.shell.shell import run

run()
