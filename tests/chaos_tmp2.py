import sys
import chaos
from chaos import Fault
chaos.CONFIG = chaos.CONFIG.replace("{provider: a}, {provider: b}, {provider: c, priority: 1}]", "{provider: a}, {provider: b, priority: 1}, {provider: c, priority: 1}]")
def plan(seconds, dice):
    return [Fault("b","failing",3.0,6.0),Fault("a","failing",3.1,6.0),Fault("c","failing",18.0,21.0),Fault("a","failing",18.1,21.0),
            Fault("b","refuse",32.0,35.0),Fault("a","stall",32.1,35.0)]
chaos.plan = plan
chaos.main()
