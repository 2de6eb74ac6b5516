defmodule Quicdist.MixProject do
  use Mix.Project

  def project do
    [
      app: :quicdist,
      version: "0.2.0",
      elixir: "~> 1.14",
      start_permanent: Mix.env() == :prod,
      description: "Python nodes for Erlang and Elixir: supervision, streams, distribution over QUIC",
      package: [licenses: ["MIT"], links: %{}, files: ~w(src lib mix.exs rebar.config README.md)],
      deps: []
    ]
  end

  def application, do: [mod: {:quicdist_app, []}, extra_applications: [:logger]]
end
