// Starts Swagger UI over this backend's own document.

window.SwaggerUIBundle({
  url: "/docs/openapi.json",
  domNode: document.getElementById("http"),
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  validatorUrl: null, // nothing is asked elsewhere
});
