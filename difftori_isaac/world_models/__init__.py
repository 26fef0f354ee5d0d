"""What a plan is optimised against: encoder, latent dynamics, reward and value residuals, policy prior."""
