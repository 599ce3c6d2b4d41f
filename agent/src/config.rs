//! What the agent is told: flags, environment, file.
