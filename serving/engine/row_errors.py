"""What is raised over one request, as the error that ends this request and no other."""

import logging

from everloop.errors import DataError, EngineError

logger = logging.getLogger(__name__)


def row_error(request_id: str, raised: BaseException) -> DataError | EngineError:
    """Turn what was raised over one request into what its reader is told.

    Not only exceptions: libraries written in Rust raise PyO3's PanicException, which is none.

    Args:
        request_id: of the request.
        raised: by anything that is this request's alone: its parameters, grammar, text or sums.

    Raises:
        KeyboardInterrupt, SystemExit: that was raised; the process is to end.
    """
    if isinstance(raised, KeyboardInterrupt | SystemExit):
        raise raised
    if isinstance(raised, DataError | EngineError):
        return raised
    logger.error("request failed request=%s", request_id, exc_info=raised)
    return EngineError(f"request {request_id} could not go on; the server's log has the details.")
