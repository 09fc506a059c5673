"""Mistakes in tests; each says which."""

from kie_mj_async.testing import Simulated, simulated, simulated_in_thread


async def mistakes(kie_simulator: Simulated) -> None:
    simulated(fault="create.429=1")  # E: call-arg / reportCallIssue
    simulated(time_scale="quick")  # E: arg-type / reportArgumentType
    with simulated_in_thread(credits=None):  # E: arg-type / reportArgumentType
        pass
    with simulated():  # E: attr-defined / reportGeneralTypeIssues
        pass
    await kie_simulator.finish()  # E: func-returns-value / reportGeneralTypeIssues
    kie_simulator.finish(1)  # E: arg-type / reportArgumentType
    kie_simulator.urls  # E: attr-defined / reportAttributeAccessIssue
