"""Probes, the exposition, and the watch over the event loop."""

from tests.serving.fakes import live_server, wait_until


def test_ready_when_a_model_is_loaded(http):
    assert (http.get("/livez").status_code, http.get("/readyz").status_code) == (200, 200)


def test_alive_but_not_ready_while_loading(http, engine):
    engine.current = None
    assert (http.get("/livez").status_code, http.get("/readyz").status_code) == (200, 503)


def test_alive_but_not_ready_while_draining(http, app):
    app.state.api.is_draining = True
    assert (http.get("/healthz").status_code, http.get("/readyz").status_code) == (200, 503)


def test_not_alive_with_a_dead_engine(http, engine):
    engine.is_dead = True
    assert (http.get("/livez").status_code, http.get("/readyz").status_code) == (503, 503)


def test_metrics_come_from_the_callable(http):
    reply = http.get("/metrics")
    assert (reply.text, reply.headers["content-type"]) == ("up 1\n", "text/plain")


def test_event_loop_lag_is_reported_while_the_app_runs(app, observer):
    with live_server(app):
        assert wait_until(lambda: observer.lags)
    assert all(lag >= 0 for lag in observer.lags)
